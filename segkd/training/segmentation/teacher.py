"""A segmentation teacher: built, its weights loaded, and an auxiliary head trained on it for RDD."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

from segkd.common.files import replacing
from segkd.common.weights import check_fit, read_state_dict
from segkd.data.description import read_spec
from segkd.data.masks import MaskSpec
from segkd.errors import SegkdError
from segkd.models.auxiliary import WithAuxiliary
from segkd.models.saved import read_network
from segkd.models.smp import build_model, normalization
from segkd.models.smp_files import AUXILIARY_FILE, load_weights
from segkd.training.run import Run
from segkd.training.segmentation.schema import Config, Teacher
from segkd.training.task import BuiltTeacher
from segkd.training.teacher import check_classes, check_said, saved_student


def build_teacher(config: Config, spec: MaskSpec, own: Config | None) -> BuiltTeacher:
    """Build the teacher with random weights: what it takes is known before there are any to load.

    A checkpoint that is a run, or the student saved in it, says itself what its weights are of: architecture, encoder,
    options, classes, normalisation and auxiliary head.

    Args:
        config: of the student.
        spec: the student's data set.
        own: the config that trains the teacher, if it has one.

    Raises:
        SegkdError: the model cannot be built, its classes are others and no class_map says which is which, or the
            config says something else of it than its run.
    """
    block = config.teacher
    assert block is not None
    try:
        if own is not None:
            return _of_config(block, spec, own)
        folder = saved_student(block)
        return _of_weights(block, spec) if folder is None else _of_student(block, spec, folder)
    except SegkdError as error:
        raise SegkdError(f"{config.name}: {error}") from None


def _of_config(block: Teacher, spec: MaskSpec, own: Config) -> BuiltTeacher:
    student, theirs = own.student, read_spec(own.data.dataset, MaskSpec, own_code=True).class_names
    _check_classes(f"the teacher {own.name}", theirs, block, spec)
    given = student.normalization
    return BuiltTeacher(
        _with_head(block, student.arch, student.encoder, len(theirs), student.auxiliary, student.options),
        str(Run.of(own).student),
        normalization(student.encoder, student.encoder_weights) if given is None else (given.mean, given.std),
        block.class_map,
    )


def _of_student(block: Teacher, spec: MaskSpec, folder: Path) -> BuiltTeacher:
    _, network = read_network(folder)
    model, info = network.module, network.info
    arguments: dict[str, Any] = model.config  # type: ignore[assignment]
    held = {"arch": type(model).__name__, "encoder": arguments["encoder_name"]}
    check_said(block, {**held, "normalization": [info["mean"], info["std"]]}, arguments)
    count = arguments.get("classes", 1)
    theirs = info.get("classes")
    if theirs is not None:
        _check_classes(f"the teacher {block.checkpoint}", theirs, block, spec)
    elif count != _count(block, spec):
        raise SegkdError(f"the teacher {block.checkpoint} has {count} classes, not {_count(block, spec)}")
    if block.auxiliary or (folder / AUXILIARY_FILE).is_file():
        model = WithAuxiliary(model, count)
    return BuiltTeacher(model, str(block.checkpoint), (info["mean"], info["std"]), block.class_map)


def _of_weights(block: Teacher, spec: MaskSpec) -> BuiltTeacher:
    assert block.arch is not None
    assert block.encoder is not None
    assert block.checkpoint is not None
    given = block.normalization
    return BuiltTeacher(
        _with_head(block, block.arch, block.encoder, _count(block, spec), False, block.options),
        block.checkpoint,
        normalization(block.encoder) if given is None else (given.mean, given.std),
        block.class_map,
    )


def _with_head(
    block: Teacher, arch: str, encoder: str, classes: int, has_head: bool, options: dict[str, Any]
) -> nn.Module:
    return build_model(arch, encoder, classes, None, has_head or bool(block.auxiliary), options)


def _count(block: Teacher, spec: MaskSpec) -> int:
    return spec.num_classes if block.class_map is None else len(block.class_map)


def _check_classes(what: str, theirs: list[str], block: Teacher, spec: MaskSpec) -> None:
    if block.class_map is None:
        way_out = "give teacher.class_map, the student's class (or null) for each of the teacher's"
        check_classes(what, theirs, spec.class_names, way_out)
    elif len(block.class_map) != len(theirs):
        raise SegkdError(f"{what} has {len(theirs)} classes, teacher.class_map {len(block.class_map)} entries")


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
