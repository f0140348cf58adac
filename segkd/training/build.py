"""From a checked config to data, models and a distiller."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkd.adapter import Adapter, Normalization
from segkd.distiller import Distiller
from segkd.errors import SegkdError
from segkd.segmentation.check import contact_sheet
from segkd.segmentation.datasets import DatasetSpec, load_dataset_spec
from segkd.segmentation.encoders import normalization
from segkd.segmentation.loading import SegmentationDataset
from segkd.segmentation.models import build_model
from segkd.segmentation.transforms import eval_transform, train_transform
from segkd.segmentation.weights import load_weights
from segkd.training.schema import Config, Model, Teacher
from segkd.training.teacher import BuiltTeacher


def build_spec(config: Config) -> DatasetSpec:
    """Return the description of the config's data set."""
    return load_dataset_spec(config.data.dataset)


def build_train_set(config: Config, spec: DatasetSpec) -> SegmentationDataset:
    """Return the training split with its augmentation."""
    data = config.data
    transform = train_transform(
        data.crop,
        resize=data.resize,
        scale=data.scale,
        flip=data.flip,
        color_jitter=data.color_jitter,
        ignore_index=spec.ignore_index,
    )
    return SegmentationDataset(spec, data.train_split, transform, data.root, config.seed)


def build_val_set(config: Config, spec: DatasetSpec) -> SegmentationDataset:
    """Return the validation split: images at ``validation.resize``, labels at their own size."""
    transform = eval_transform(config.validation.resize)
    return SegmentationDataset(spec, config.data.val_split, transform, config.data.root, config.seed)


def sample_sheet(config: Config, split: str, count: int, out: Path) -> None:
    """Write a picture of samples with their labels, before and after the training split's augmentation.

    Raises:
        SegkdError: the data cannot be read, or the picture cannot be written.
    """
    spec = build_spec(config)
    transform = (build_train_set if split == config.data.train_split else build_val_set)(config, spec).transform
    picture = contact_sheet(spec, split, transform, count, config.seed, config.data.root)
    try:
        picture.save(out)
    except (OSError, ValueError) as error:
        raise SegkdError(f"the picture {out} cannot be written: {error}") from None


def model_normalization(settings: Model | Teacher) -> Normalization:
    """Return (mean, std) that a model's images are normalised with."""
    if settings.normalization is not None:
        return settings.normalization.mean, settings.normalization.std
    assert settings.encoder is not None
    return normalization(settings.encoder, getattr(settings, "encoder_weights", None))


def build_student(config: Config, spec: DatasetSpec, weights: bool = True) -> nn.Module:
    """Return the student; the same seed gives the same weights, whatever teaches it.

    Args:
        config: of the run.
        spec: of its data set.
        weights: whether to load encoder weights and checkpoint; False where others are loaded over them.
    """
    settings = config.student
    torch.manual_seed(config.seed)
    student = build_model(
        settings.arch,
        settings.encoder,
        spec.num_classes,
        settings.encoder_weights if weights else None,
        settings.auxiliary,
        settings.options,
    )
    if weights and settings.checkpoint is not None:
        load_weights(student, settings.checkpoint)
    return student


def student_info(config: Config, spec: DatasetSpec) -> dict[str, Any]:
    """Return what is saved beside a student's weights, see `segkd.segmentation.student.Student`."""
    mean, std = model_normalization(config.student)
    return {
        "classes": spec.class_names,
        "colors": spec.colors,
        "ignore_index": spec.ignore_index,
        "dataset": spec.name,
        "mean": list(mean),
        "std": list(std),
        "size": config.validation.resize,
    }


def build_distiller(config: Config, spec: DatasetSpec, student: nn.Module, teacher: BuiltTeacher | None) -> Distiller:
    """Return the distiller that the config describes; without teacher it trains on the task loss alone.

    Raises:
        SegkdError: names the config and what does not fit.
    """
    distill = config.distill
    arguments: dict[str, Any] = {}
    if teacher is not None:
        arguments = {"teacher_normalization": teacher.normalization, "class_map": teacher.class_map}
    adapter = Adapter(
        student_normalization=model_normalization(config.student),
        auxiliary_weight=config.student.auxiliary_weight if config.student.auxiliary else 0.0,
        **arguments,
    )
    try:
        return Distiller(
            student,
            None if teacher is None else teacher.model,
            distill.build_terms(),
            nn.CrossEntropyLoss(ignore_index=spec.ignore_index),
            pixel_weighting=distill.build_weighting(spec.ignore_index),
            schedule=distill.build_schedule(),
            adapter=adapter,
        )
    except SegkdError as error:
        raise SegkdError(f"{config.name}: distill: {error}") from None
