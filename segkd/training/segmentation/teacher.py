"""A segmentation teacher: built, its weights loaded, and an auxiliary head trained on it for RDD."""

from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch
from torch.nn import functional as F

from segkd.common.files import replacing
from segkd.common.weights import check_fit, read_state_dict
from segkd.errors import SegkdError
from segkd.segmentation.auxiliary import WithAuxiliary
from segkd.segmentation.datasets import load_dataset_spec
from segkd.segmentation.encoders import normalization
from segkd.segmentation.models import build_model
from segkd.segmentation.weights import load_weights
from segkd.training.run import Run
from segkd.training.segmentation.schema import Config, Teacher
from segkd.training.task import BuiltTeacher


def build_teacher(block: Teacher, classes: int, own: Config | None) -> BuiltTeacher:
    """Build the teacher with random weights: what it takes is known before there are any to load.

    Args:
        block: the config's teacher block.
        classes: of the student's data set.
        own: the config that trains it, if it has one.

    Raises:
        SegkdError: the model cannot be built, or its data set has other classes and no class_map says which is which.
    """
    count = classes if block.class_map is None else len(block.class_map)
    if own is not None:
        student, spec = own.student, load_dataset_spec(own.data.dataset)
        if spec.num_classes != count:
            expected = f"the student {classes}" if block.class_map is None else f"teacher.class_map {count} entries"
            raise SegkdError(
                f"the teacher {own.name} has the {spec.num_classes} classes of {spec.name}, {expected}: give "
                "teacher.class_map, the student's class (or null) for each of the teacher's"
            )
        arch, encoder, options = student.arch, student.encoder, student.options
        given, has_head = student.normalization, student.auxiliary
        checkpoint = str(Run.of(own).student)
    else:
        assert block.arch is not None
        assert block.encoder is not None
        assert block.checkpoint is not None
        arch, encoder, options = block.arch, block.encoder, block.options
        given, has_head, checkpoint = block.normalization, False, block.checkpoint
    return BuiltTeacher(
        build_model(arch, encoder, count, None, has_head or bool(block.auxiliary), options),
        checkpoint,
        normalization(encoder) if given is None else (given.mean, given.std),
        block.class_map,
    )


def load_teacher(teacher: BuiltTeacher, auxiliary: bool | str) -> None:
    """Load the teacher's weights.

    Args:
        teacher: from `build_teacher`.
        auxiliary: as in the config: ``"fit"`` does without weights of the auxiliary head.

    Raises:
        SegkdError: the weights do not fit, or hold no auxiliary head where one is asked for.
    """
    found_head = load_weights(teacher.model, teacher.checkpoint)
    teacher.needs_fit = isinstance(teacher.model, WithAuxiliary) and not found_head
    if teacher.needs_fit and auxiliary != "fit":
        raise SegkdError(f"{teacher.checkpoint} holds no auxiliary head: set teacher.auxiliary=fit to train one")


def fit_auxiliary(
    teacher: BuiltTeacher,
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]],
    steps: int,
    lr: float,
    ignore_index: int,
    device: torch.device,
) -> list[float]:
    """Train the auxiliary head of a frozen teacher by cross-entropy; nothing else of the teacher changes.

    Args:
        teacher: whose model is a `WithAuxiliary`.
        batches: endless (images normalised for the teacher, labels (B, H, W)).
        steps: optimiser steps, AdamW with a one-cycle learning rate.
        lr: its peak.
        ignore_index: label to leave out.
        device: where.

    Returns:
        The loss at each step.
    """
    assert isinstance(teacher.model, WithAuxiliary)
    losses = []
    model, head = teacher.model.to(device).eval().requires_grad_(False), teacher.model.auxiliary
    head.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=steps + 1)
    for _ in range(steps):
        images, target = next(batches)
        # The encoder and the head alone: the decoder has no part in it.
        with torch.no_grad():
            features = model.model.encoder(images.to(device))[-2]
        logits = F.interpolate(head(features), size=target.shape[-2:], mode="bilinear", align_corners=False)
        loss = F.cross_entropy(logits, target.to(device), ignore_index=ignore_index)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    head.eval().requires_grad_(False)
    teacher.needs_fit = False
    return losses


def save_auxiliary(teacher: BuiltTeacher, path: Path) -> None:
    """Write the auxiliary head's weights, whole or not at all."""
    assert isinstance(teacher.model, WithAuxiliary)
    with replacing(path) as scratch:
        safetensors.torch.save_model(teacher.model.auxiliary, str(scratch))


def load_auxiliary(teacher: BuiltTeacher, path: Path) -> None:
    """Read the auxiliary head's weights that `save_auxiliary` wrote.

    Raises:
        SegkdError: the file is damaged, or of another head.
    """
    assert isinstance(teacher.model, WithAuxiliary)
    state = read_state_dict(path)
    check_fit(teacher.model.auxiliary, state, path)
    teacher.model.auxiliary.load_state_dict(state)
    teacher.needs_fit = False
