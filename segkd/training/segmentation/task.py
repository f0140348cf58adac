"""Segmentation in a run: pairs of image and mask, models of segmentation-models-pytorch, mIoU."""

import functools
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console
from torch import Tensor, nn
from torchmetrics import Metric

from segkd.adapter import Adapter, Normalization
from segkd.common.pictures import Picture
from segkd.data.check import class_shares, contact_sheet
from segkd.data.dataset import SeededDataset
from segkd.data.description import read_spec
from segkd.data.masks import MaskSpec
from segkd.data.transforms import eval_transform, train_transform
from segkd.distiller import Distiller
from segkd.errors import SegkdError
from segkd.models.saved import load_student
from segkd.models.smp import build_model, normalization
from segkd.models.smp_files import load_weights
from segkd.network import Network
from segkd.segmentation.inference import predict_logits, size_multiple
from segkd.segmentation.metrics import SegmentationMetrics
from segkd.segmentation.pictures import colorize, overlay
from segkd.segmentation.task_losses import class_weights
from segkd.training.run import Run
from segkd.training.schema import Config as AnyConfig
from segkd.training.segmentation import teacher as teachers
from segkd.training.segmentation.boards import SegmentationPictures
from segkd.training.segmentation.schema import Config, Model, Teacher
from segkd.training.segmentation.task_loss import build_task_loss
from segkd.training.task import BuiltTeacher, Task, device_of


class SegmentationTask(Task):
    """One segmentation run's data and models.

    Args:
        config: of the run.

    Raises:
        SegkdError: the data set's description cannot be read.
    """

    score = "miou"
    spec: MaskSpec

    def __init__(self, config: Config) -> None:
        self.config: Config = config
        self.spec = read_spec(config.data.dataset, MaskSpec, own_code=True).limited(config.data.max_pixels)

    def train_set(self) -> SeededDataset:
        """Return the training split with its augmentation."""
        data = self.config.data
        transform = train_transform(
            data.crop,
            resize=data.resize,
            scale=data.scale,
            flip=data.flip,
            color_jitter=data.color_jitter,
            blur=data.blur,
            ignore_index=self.spec.ignore_index,
        )
        return SeededDataset(
            self.spec,
            data.train_split,
            transform,
            data.root,
            self.config.seed,
            limit=data.limit,
            unlabelled=self.unlabelled(),
        )

    def val_set(self) -> SeededDataset:
        """Return the validation split: images at ``validation.resize``, labels at their own size."""
        transform = eval_transform(self.config.validation.resize)
        return SeededDataset(self.spec, self.config.data.val_split, transform, self.config.data.root, self.config.seed)

    def remarks(self, dataset: SeededDataset) -> list[str]:
        """Return what a person should know of a split before the run, the weights of the classes among it.

        Raises:
            SegkdError: nothing can be learnt from its labels, or one of them cannot be read.
        """
        told = super().remarks(dataset)
        if "class_weights" in vars(self) and dataset.samples.split == self.config.data.train_split:
            shown = ", ".join(f"{n} {w:.2f}" for n, w in zip(self.class_names, self.class_weights, strict=True))
            told.append(f"class weights of the task loss: {shown}")
        return told

    def samples(self, split: str, count: int) -> Image.Image:
        """Return a picture of samples with their labels, before and after the training split's augmentation."""
        data = self.config.data
        transform = (self.train_set() if split == data.train_split else self.val_set()).transform
        paint = functools.partial(overlay, colors=self.spec.colors, ignore_index=self.spec.ignore_index)
        return contact_sheet(self.spec, split, transform, paint, count, self.config.seed, data.root)

    def student(self, weights: bool = True) -> nn.Module:
        """Return the student; the same seed gives the same weights, whatever teaches it.

        Args:
            weights: whether to load encoder weights and checkpoint; False where others are loaded over them.
        """
        settings = self.config.student
        torch.manual_seed(self.config.seed)
        student = build_model(
            settings.arch,
            settings.encoder,
            self.spec.num_classes,
            settings.encoder_weights if weights else None,
            settings.auxiliary,
            settings.options,
        )
        if weights and settings.checkpoint is not None:
            load_weights(student, settings.checkpoint)
        return student

    def teacher(self, own: AnyConfig | None) -> BuiltTeacher:
        """Return the teacher with random weights, see `segkd.training.segmentation.teacher.build_teacher`."""
        assert self.config.teacher is not None
        if own is not None and not isinstance(own, Config):
            raise SegkdError(f"{self.config.name}: teacher.config: {own.name} is no segmentation config")
        return teachers.build_teacher(self.config, self.spec, own)

    def load_teacher(self, teacher: BuiltTeacher, to_measure: bool = False) -> None:
        """Load the teacher's weights; where it is only measured, an auxiliary head may lack."""
        assert self.config.teacher is not None
        teachers.load_teacher(teacher, "fit" if to_measure else self.config.teacher.auxiliary)

    def finish_teacher(self, teacher: BuiltTeacher, run: Run, train_set: SeededDataset, console: Console) -> None:
        """Train the auxiliary head of a teacher that has none, or load the one that this run has trained before."""
        if not teacher.needs_fit:
            return
        if run.teacher_auxiliary.is_file():
            teachers.load_auxiliary(teacher, run.teacher_auxiliary)
            return
        assert self.config.teacher is not None
        settings, name = self.config.teacher.auxiliary_fit, self.config.name
        console.print(f"{name}: an auxiliary head is trained on the teacher, {settings.steps} steps", highlight=False)
        loader = self.train_loader(train_set)
        batches = ((normalize(batch["image"], teacher.normalization), batch["mask"]) for batch in loader)
        torch.manual_seed(self.config.seed)
        losses = teachers.fit_auxiliary(
            teacher, batches, settings.steps, settings.lr, self.spec.ignore_index, device_of(self.config)
        )
        if getattr(rank_zero_only, "rank", 0) == 0:
            teachers.save_auxiliary(teacher, run.teacher_auxiliary)
        console.print(f"{name}: its loss went from {losses[0]:.3f} to {losses[-1]:.3f}", highlight=False)

    def distiller(self, student: nn.Module, teacher: BuiltTeacher | None) -> Distiller:
        """Return the distiller that the config describes; without teacher it trains on the task loss alone.

        Raises:
            SegkdError: names the config and what does not fit.
        """
        config, distill = self.config, self.config.distill
        self._check_crop("student", student)
        arguments: dict[str, Any] = {}
        if teacher is not None:
            self._check_crop("teacher", teacher.model)
            arguments = {"teacher_normalization": teacher.normalization, "class_map": teacher.class_map}
        adapter = Adapter(
            student_normalization=model_normalization(config.student),
            auxiliary_weight=config.student.auxiliary_weight if config.student.auxiliary else 0.0,
            **arguments,
        )
        task_loss = self._task_loss()
        try:
            return Distiller(
                student,
                None if teacher is None else teacher.model,
                distill.build_terms(),
                task_loss,
                pixel_weighting=distill.build_weighting(self.spec.ignore_index),
                schedule=distill.build_schedule(),
                adapter=adapter,
                task_weight=distill.task_weight,
            )
        except SegkdError as error:
            raise SegkdError(f"{config.name}: distill: {error}") from None

    @functools.cached_property
    def class_weights(self) -> list[float]:
        """Return a weight for each class, from how often it occurs in up to 1000 masks spread over the training split.

        Raises:
            SegkdError: no pixel of them is labelled, or one cannot be read.
        """
        return class_weights(class_shares(self.train_set()))

    def _task_loss(self) -> nn.Module:
        """Return what is learnt from the labels."""
        named, classes = self.config.task_loss or {"cross_entropy": {}}, self.spec.num_classes
        for name, options in named.items():
            weight = (options or {}).get("weight")
            if name == "cross_entropy" and isinstance(weight, list) and len(weight) != classes:
                raise SegkdError(
                    f"{self.config.name}: task_loss.cross_entropy.weight: {classes} numbers are needed, one for each "
                    f"class of {self.spec.name}, got {len(weight)}"
                )
        return build_task_loss(named, self.spec.ignore_index, lambda: self.class_weights)

    def _check_crop(self, side: str, model: nn.Module) -> None:
        """Raise unless a model takes images of the crop's size: nothing pads them in training."""
        multiple, crop = size_multiple(model), self.config.data.crop
        if any(pixels % multiple for pixels in crop):
            fits = [max(pixels // multiple, 1) * multiple for pixels in crop]
            raise SegkdError(
                f"{self.config.name}: data.crop: the {side} takes heights and widths that are multiples of {multiple}, "
                f"such as {fits}, got {list(crop)}"
            )

    def inputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return images normalised for the student, (B, 3, H, W), and labels (B, H, W)."""
        return normalize(batch["image"], model_normalization(self.config.student)), batch["mask"]

    def metrics(self, **options: Any) -> SegmentationMetrics:
        """Return a confusion matrix."""
        return SegmentationMetrics(self.spec.num_classes, self.spec.ignore_index, **options)

    def count(
        self, metrics: Metric, model: nn.Module, batch: dict[str, Any], teacher: BuiltTeacher | None = None
    ) -> None:
        """Count a model's predictions at label size; where it is the teacher's, that is given too."""
        target = batch["mask"]
        if teacher is None:
            metrics.update(self.predict(model, self.inputs(batch)[0], target), target)
        else:
            logits = self.predict(model, normalize(batch["image"], teacher.normalization), target)
            metrics.update(Adapter(class_map=teacher.class_map).map_classes(logits), target)

    def predict(self, model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        """Return logits (B, C, H, W) at label size for images normalised for the model, as ``validation`` says."""
        settings = self.config.validation
        return predict_logits(
            model,
            images,
            (target.shape[-2], target.shape[-1]),
            mode=settings.mode,
            window=settings.window or self.config.data.crop,
            stride=settings.stride,
        )

    def scalars(self, measured: dict[str, Any]) -> dict[str, float]:
        """Return the measures as ``val/...`` and each class's IoU as ``iou/...``; NaN for an absent class."""
        named = {f"val/{key}": value for key, value in measured.items() if key != "iou"}
        return named | {f"iou/{name}": v for name, v in zip(self.class_names, measured["iou"], strict=True)}

    def pictures(self, dataset: SeededDataset) -> pl.Callback:
        """Return what draws images under both models."""
        return SegmentationPictures(dataset, self.config.validation.pictures, self.inputs, self.predict)

    def draw(
        self, item: dict[str, Any], model: nn.Module | None = None, teacher: BuiltTeacher | None = None
    ) -> Picture:
        """Draw the label, or what a model predicts at the label's size, in the classes' colours."""
        label = item["mask"]
        if model is None:
            return colorize(label.numpy(), self.spec.colors, self.spec.ignore_index)
        of = model_normalization(self.config.student) if teacher is None else teacher.normalization
        logits = self.predict(model, normalize(item["image"][None], of), label)
        if teacher is not None:
            logits = Adapter(class_map=teacher.class_map).map_classes(logits)
        return colorize(logits.argmax(1)[0].cpu().numpy(), self.spec.colors, self.spec.ignore_index)

    def save_student(self, student: nn.Module, directory: Path) -> None:
        """Write the student with what is needed to use it, see `Network.save`."""
        mean, std = model_normalization(self.config.student)
        size, names = self.config.validation.resize, self.spec.class_names
        recorded = {
            "colors": self.spec.colors,
            "ignore_index": self.spec.ignore_index,
            "dataset": self.spec.name,
            "window": self.config.validation.window or self.config.data.crop,
        }
        Network(student, mean=mean, std=std, size=size, classes=names, recorded=recorded, family="smp").save(directory)

    def load_student(self, directory: Path) -> nn.Module:
        """Open what `save_student` wrote."""
        return load_student(directory).module


def model_normalization(settings: Model | Teacher) -> Normalization:
    """Return (mean, std) that a model's images are normalised with."""
    if settings.normalization is not None:
        return settings.normalization.mean, settings.normalization.std
    assert settings.encoder is not None
    return normalization(settings.encoder, getattr(settings, "encoder_weights", None))


def normalize(images: Tensor, of: Normalization) -> Tensor:
    """Return uint8 images (B, 3, H, W) in 0 to 1, less the mean, over the deviation."""
    mean, std = _on_device((tuple(of[0]), tuple(of[1])), images.device)
    return (images.float() / 255 - mean) / std


@functools.cache
def _on_device(of: Normalization, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return mean and deviation as (1, 3, 1, 1), made once: a copy to a GPU in each step would wait for it."""
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in of)
    return mean, std
