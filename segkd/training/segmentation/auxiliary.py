"""The auxiliary head that RDD reads of a teacher, trained on the frozen one where it has none."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from segkd.common.files import replacing
from segkd.common.weights import check_fit, read_state_dict
from segkd.data.dataset import SeededDataset
from segkd.models.auxiliary import WithAuxiliary
from segkd.network import Network
from segkd.training.measure import device_of, seen_by
from segkd.training.task import Task


def have_auxiliary(
    task: Task, name: str, network: Network, path: Path, train_set: SeededDataset, console: Console
) -> None:
    """Train a teacher's head for the labels of a run's training split, or read the one at ``path`` from before.

    A console that is quiet is of a process that writes nothing.
    """
    assert isinstance(network.module, WithAuxiliary)
    if path.is_file():
        load_auxiliary(network.module, path)
        return
    settings, run = task.config.named_teachers()[name].auxiliary_fit, task.config.name
    console.print(f"{run}: an auxiliary head is trained on the {name}, {settings.steps} steps", highlight=False)
    pairs = (task.inputs(seen_by(name, batch)) for batch in task.train_loader(train_set))
    batches = ((network.preprocess(images), target) for images, target in pairs)
    torch.manual_seed(task.config.seed)
    ignored = task.spec.ignore_index
    losses = fit_auxiliary(network.module, batches, settings.steps, settings.lr, ignored, device_of(task.config))
    if not console.quiet:
        save_auxiliary(network.module, path)
    console.print(f"{run}: its loss went from {losses[0]:.3f} to {losses[-1]:.3f}", highlight=False)


def fit_auxiliary(
    module: WithAuxiliary,
    batches: Iterator[tuple[Tensor, Tensor]],
    steps: int,
    lr: float,
    ignore_index: int,
    device: torch.device,
) -> list[float]:
    """Train the auxiliary head of a frozen teacher by cross-entropy, and return the loss at each step.

    AdamW with a one-cycle learning rate, whose peak is ``lr``; ``batches`` are endless (images normalised for the
    teacher, labels (B, H, W)). Nothing else of the teacher changes.
    """
    losses = []
    module.to(device).eval().requires_grad_(False)
    head, encoder = module.auxiliary, module.model.encoder
    assert isinstance(encoder, nn.Module)
    head.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps + 1)
    for _ in range(steps):
        images, target = next(batches)
        # The encoder and the head alone: the decoder has no part in it.
        with torch.no_grad():
            features: Any = encoder(images.to(device))[-2]
        logits = F.interpolate(head(features), size=target.shape[-2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, target.to(device), ignore_index=ignore_index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    head.eval().requires_grad_(False)
    return losses


def save_auxiliary(module: WithAuxiliary, path: Path) -> None:
    """Write the auxiliary head's weights, whole or not at all."""
    with replacing(path) as scratch:
        safetensors.torch.save_model(module.auxiliary, str(scratch))


def load_auxiliary(module: WithAuxiliary, path: Path) -> None:
    """Read the auxiliary head's weights that `save_auxiliary` wrote; raises a SegkdError if they do not fit."""
    state = read_state_dict(path)
    check_fit(module.auxiliary, state, path)
    module.auxiliary.load_state_dict(state)
