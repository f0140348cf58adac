"""Detection in a run: images with boxes, detectors on an FPN, average precision."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics import Metric

from segkd.adapter import Normalization
from segkd.common.pictures import Picture
from segkd.data.boxes import BoxSpec
from segkd.data.check import contact_sheet
from segkd.data.dataset import SeededDataset
from segkd.data.description import read_spec
from segkd.data.transforms import Transform, eval_transform, train_transform
from segkd.detection.adapter import DetectionAdapter
from segkd.detection.metrics import DetectionMetrics
from segkd.detection.models import build_detector, detect
from segkd.detection.pictures import box_row, draw_boxes
from segkd.detection.weights import load_weights
from segkd.distiller import Distiller
from segkd.errors import SegkdError
from segkd.models.detectors import settings_of
from segkd.models.saved import load_student, read_network
from segkd.network import Network
from segkd.training.detection.boards import DetectionPictures
from segkd.training.detection.schema import Config, Model, Teacher
from segkd.training.schema import Config as AnyConfig
from segkd.training.task import BuiltTeacher, Task
from segkd.training.teacher import check_classes, check_said, saved_student

_SAME = "detection needs the same, in the same order"


class DetectionTask(Task):
    """One detection run's data and models.

    Args:
        config: of the run.

    Raises:
        SegkdError: the data set's description cannot be read.
    """

    score = "ap"
    spec: BoxSpec

    def __init__(self, config: Config) -> None:
        self.config: Config = config
        self.spec = read_spec(config.data.dataset, BoxSpec, own_code=True).limited(config.data.max_pixels)

    def train_set(self) -> SeededDataset:
        """Return the training split with its augmentation."""
        data = self.config.data
        return SeededDataset(
            self.spec,
            data.train_split,
            self._train_transform(),
            data.root,
            self.config.seed,
            masks=self.config.student.arch == "mask_rcnn",
            limit=data.limit,
            unlabelled=self.unlabelled(),
        )

    def val_set(self) -> SeededDataset:
        """Return the validation split at its own size."""
        data = self.config.data
        return SeededDataset(self.spec, data.val_split, eval_transform(), data.root, self.config.seed)

    def _train_transform(self) -> Transform:
        data = self.config.data
        return train_transform(
            scale=data.scale, crop=data.crop, flip=data.flip, color_jitter=data.color_jitter, blur=data.blur
        )

    def samples(self, split: str, count: int) -> Image.Image:
        """Return a picture of samples with their boxes, before and after the training split's augmentation."""
        data = self.config.data
        transform = self._train_transform() if split == data.train_split else eval_transform()

        def paint(image: Any, objects: Any) -> Picture:
            return draw_boxes(image, objects.boxes, objects.labels, self.class_names, self.spec.colors)

        return contact_sheet(self.spec, split, transform, paint, count, self.config.seed, data.root)

    def student(self, weights: bool = True) -> nn.Module:
        """Return the student; the same seed gives the same weights, whatever teaches it.

        Args:
            weights: whether to load backbone weights and checkpoint; False where others are loaded over them.
        """
        settings = self.config.student
        torch.manual_seed(self.config.seed)
        student = self._detector(settings, settings.backbone_weights if weights else None)
        if weights and settings.checkpoint is not None:
            load_weights(student, settings.checkpoint)
        return student

    def _detector(self, settings: Model | Teacher, weights: str | None = None) -> nn.Module:
        assert settings.arch is not None
        assert settings.backbone is not None
        data = self.config.data
        return build_detector(
            settings.arch,
            settings.backbone,
            len(self.class_names),
            weights,
            min_size=data.sizes(),
            max_size=data.max_size,
            normalization=None if settings.normalization is None else _pair(settings),
            norm=getattr(settings, "norm", "batch"),
            options=settings.options,
        )

    def teacher(self, own: AnyConfig | None) -> BuiltTeacher:
        """Return the teacher with random weights: what it takes is known before there are any to load.

        Args:
            own: the config that trains it, if it has one.

        Raises:
            SegkdError: the model cannot be built, or has other classes than the student.
        """
        block = self.config.teacher
        assert block is not None
        try:
            if own is None and (folder := saved_student(block)) is not None:
                return self._saved_teacher(block, folder)
            if own is None:
                assert block.checkpoint is not None
                settings: Model | Teacher = block
                checkpoint = block.checkpoint
            else:
                if not isinstance(own, Config):
                    raise SegkdError(f"teacher.config: {own.name} is no detection config")
                settings, checkpoint = own.student, str(Path(own.runs) / own.name / "student")
                theirs = read_spec(own.data.dataset, BoxSpec, own_code=True).class_names
                check_classes(f"the teacher {own.name}", theirs, self.class_names, _SAME)
        except SegkdError as error:
            raise SegkdError(f"{self.config.name}: {error}") from None
        return _built(self._detector(settings), checkpoint)

    def _saved_teacher(self, block: Teacher, folder: Path) -> BuiltTeacher:
        """Return the teacher that a run has saved: what it is of is said there."""
        data = self.config.data
        _, network = read_network(folder, min_size=data.sizes(), max_size=data.max_size)
        held: dict[str, Any] = network.module.config  # type: ignore[assignment]
        check_said(block, {key: held[key] for key in ("arch", "backbone", "normalization")}, held["options"])
        check_classes(f"the teacher {block.checkpoint}", network.classes, self.class_names, _SAME)
        return _built(network.module, str(block.checkpoint))

    def load_teacher(self, teacher: BuiltTeacher, to_measure: bool = False) -> None:
        """Load the teacher's weights."""
        load_weights(teacher.model, teacher.checkpoint)

    def distiller(self, student: nn.Module, teacher: BuiltTeacher | None) -> Distiller:
        """Return the distiller that the config describes; without teacher it trains on the detector's losses alone.

        Raises:
            SegkdError: names the config and what does not fit.
        """
        config, distill = self.config, self.config.distill
        try:
            return Distiller(
                student,
                None if teacher is None else teacher.model,
                distill.build_terms(),
                schedule=distill.build_schedule(),
                adapter=DetectionAdapter(),
                task_weight=distill.task_weight,
            )
        except SegkdError as error:
            raise SegkdError(f"{config.name}: distill: {error}") from None

    def inputs(self, batch: dict[str, Any]) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Return images, float (3, H, W) in [0, 1], and their targets."""
        return [image.float() / 255 for image in batch["images"]], batch["targets"]

    def metrics(self, **options: Any) -> DetectionMetrics:
        """Return COCO's average precision."""
        return DetectionMetrics(self.class_names, **options)

    def count(
        self, metrics: Metric, model: nn.Module, batch: dict[str, Any], teacher: BuiltTeacher | None = None
    ) -> None:
        """Count a detector's boxes, in the images' own pixels."""
        images, targets = self.inputs(batch)
        metrics.update(detect(model, images), targets)

    def scalars(self, measured: dict[str, Any]) -> dict[str, float]:
        """Return the measures as ``val/...``, each class's as ``ap/...`` and ``ap50/...``; NaN where there is none."""
        named = {f"val/{key}": value for key, value in measured.items() if not isinstance(value, list)}
        for key in ("ap", "ap50"):
            values = measured[f"class_{key}"]
            named |= {f"{key}/{name}": value for name, value in zip(self.class_names, values, strict=True)}
        return named

    def pictures(self, dataset: SeededDataset) -> pl.Callback:
        """Return what draws boxes of both models, and FPN maps."""
        return DetectionPictures(dataset, self.config.validation.pictures)

    def draw(
        self, item: dict[str, Any], model: nn.Module | None = None, teacher: BuiltTeacher | None = None
    ) -> Picture:
        """Draw the true boxes over the image, or those that a model finds."""
        found = item if model is None else detect(model, [item["image"].float() / 255])[0]
        image = item["image"].permute(1, 2, 0).numpy()
        picture = box_row(image, [found], self.class_names, self.spec.colors, tile=480)[1]
        assert picture is not None
        return picture

    def save_student(self, student: nn.Module, directory: Path) -> None:
        """Write the student with what is needed to use it, see `Network.save`."""
        recorded = {"colors": self.spec.colors, "dataset": self.spec.name}
        of: dict[str, Any] = {"family": "detectors", "settings": settings_of(student), "recorded": recorded}
        Network(student, classes=self.class_names, task="detection", **of).save(directory)

    def load_student(self, directory: Path) -> nn.Module:
        """Open what `save_student` wrote."""
        return load_student(directory).module


def _pair(settings: Model | Teacher) -> Normalization:
    assert settings.normalization is not None
    return settings.normalization.mean, settings.normalization.std


def _built(model: nn.Module, checkpoint: str) -> BuiltTeacher:
    mean, std = model.config["normalization"]  # type: ignore[index]
    return BuiltTeacher(model, checkpoint, (mean, std))
