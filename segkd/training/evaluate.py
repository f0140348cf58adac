"""Measuring a model on a validation split, outside of training."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkd.adapter import Adapter, Normalization
from segkd.errors import SegkdError
from segkd.segmentation.datasets import DatasetSpec
from segkd.segmentation.loading import Loader, eval_loader
from segkd.segmentation.metrics import SegmentationMetrics
from segkd.segmentation.student import load_student
from segkd.training.build import build_spec, build_student, build_val_set, model_normalization
from segkd.training.config import load_config
from segkd.training.module import predict_as_configured
from segkd.training.run import Run
from segkd.training.schema import Config
from segkd.training.teacher import BuiltTeacher, build_teacher, load_teacher, teacher_config


def best_device() -> torch.device:
    """Return the accelerator, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def val_loader(config: Config, spec: DatasetSpec) -> Loader:
    """Return the validation loader of a single process."""
    return eval_loader(
        build_val_set(config, spec), batch_size=config.validation.batch_size, workers=config.data.workers
    )


@torch.no_grad()
def measure(
    model: nn.Module,
    normalization: Normalization,
    config: Config,
    spec: DatasetSpec,
    class_map: list[int | None] | None = None,
) -> dict[str, Any]:
    """Return what `SegmentationMetrics.compute` says of a model over the config's validation split.

    Args:
        model: maps normalised images to logits.
        normalization: (mean, std) of its images.
        config: says how images are resized and windowed.
        spec: of the data set.
        class_map: student class of each of the model's classes; None where they are the same.
    """
    device = best_device()
    model = model.to(device).eval()
    adapter = Adapter(class_map=class_map)
    # The process that measures does so alone, also where others run beside it.
    metrics = SegmentationMetrics(spec.num_classes, spec.ignore_index, sync_on_compute=False).to(device)
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in normalization)
    for batch in val_loader(config, spec):
        target = batch["mask"].to(device)
        images = (batch["image"].to(device).float() / 255 - mean) / std
        metrics.update(adapter.map_classes(predict_as_configured(model, images, target, config)), target)
    return metrics.compute()


def measure_teacher(teacher: BuiltTeacher, config: Config, spec: DatasetSpec) -> dict[str, Any]:
    """Return what the teacher reaches on the student's validation split."""
    return measure(teacher.model, teacher.normalization, config, spec, teacher.class_map)


def evaluate(target: str, overrides: list[str]) -> dict[str, Any]:
    """Measure the models of a run directory or a config.

    Args:
        target: a run directory, or a config: its teacher, and its student where a run of it or a checkpoint exists.
        overrides: ``key.path=value`` changes to the config.

    Returns:
        ``classes``, and for each of ``teacher`` and ``student`` that exists what was measured; ``name`` and ``split``.

    Raises:
        SegkdError: there is nothing to measure.
    """
    if Path(target).is_dir():
        run = Run(target)
        config = run.config(overrides)
    else:
        config = load_config(target, overrides)
        run = Run.of(config)
    spec = build_spec(config)
    result: dict[str, Any] = {"name": config.name, "split": config.data.val_split, "classes": spec.class_names}
    own = teacher_config(config)
    if config.teacher is not None and (own is None or Run.of(own).finished):
        # An auxiliary head has no part in its predictions.
        teacher = build_teacher(config.teacher.model_copy(update={"auxiliary": False}), spec.num_classes, own)
        load_teacher(teacher, auxiliary="fit")
        result["teacher"] = measure_teacher(teacher, config, spec)
    if run.student.is_dir():
        student = load_student(run.student)
        result["student"] = measure(student.model, (student.info["mean"], student.info["std"]), config, spec)
    elif config.student.checkpoint is not None:
        model = build_student(config, spec)
        result["student"] = measure(model, model_normalization(config.student), config, spec)
    if "teacher" not in result and "student" not in result:
        raise SegkdError(f"{target}: nothing to measure: no finished run {run.directory}, and no checkpoint is named")
    return result
