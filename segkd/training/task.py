"""What differs between tasks in a run: data, models, what is measured, and how it is shown."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.utilities import move_data_to_device
from rich.console import Console
from torch import nn
from torchmetrics import Metric

from segkd.adapter import Normalization
from segkd.common.devices import find_device
from segkd.common.pictures import Picture
from segkd.common.progress import shown
from segkd.data.dataset import SeededDataset
from segkd.data.description import DatasetSpec
from segkd.data.loading import Loader, eval_loader, train_loader
from segkd.data.unlabelled import find_images
from segkd.distiller import Distiller
from segkd.training.run import Run
from segkd.training.schema import Config


@dataclass
class BuiltTeacher:
    """A teacher, where its weights lie, and all that a distiller must know of it."""

    model: nn.Module
    checkpoint: str
    normalization: Normalization
    class_map: list[int | None] | None = None
    needs_fit: bool = False
    """Whether its auxiliary head is still to be trained: ``teacher.auxiliary: fit``."""


class Task(ABC):
    """One run's data and models.

    Args:
        config: of the run.
    """

    score: ClassVar[str]
    """The measure of `metrics` that picks the best student."""

    config: Config
    spec: DatasetSpec
    """What the data set's description says."""

    @property
    def class_names(self) -> list[str]:
        """Return the classes that are measured, in their order."""
        return self.spec.class_names

    @abstractmethod
    def train_set(self) -> SeededDataset:
        """Return the training split with its augmentation."""

    @abstractmethod
    def val_set(self) -> SeededDataset:
        """Return the validation split."""

    def remarks(self, dataset: SeededDataset) -> list[str]:
        """Return what a person should know of a split before the run, see `SeededDataset.told`."""
        told = dataset.told()
        if dataset.unlabelled:
            data = self.config.data
            told.append(
                f"{len(dataset.unlabelled)} images without labels: {data.without_label()} of {data.batch_size} in each "
                "batch"
            )
            terms = self.config.distill.build_terms().items()
            blind = [name for name, term in terms if getattr(term.loss, "ignore_index", None) is not None]
            if blind:
                told.append(f"terms with an ignore_index leave images without labels out: {', '.join(blind)}")
        return told

    def unlabelled(self) -> list[Path]:
        """Return the images without labels that are mixed into the batches, as a rule none."""
        data = self.config.data
        return [] if data.unlabelled is None else find_images(self.spec, data.unlabelled.images, data.root)

    @abstractmethod
    def samples(self, split: str, count: int) -> Image.Image:
        """Return a picture of samples with their labels, before and after the training split's augmentation."""

    def train_loader(self, dataset: SeededDataset, start: int = 0, rank: int = 0, world: int = 1) -> Loader:
        """Return the endless loader of one process, after ``start`` samples that all of them have seen."""
        data, seed = self.config.data, self.config.seed
        return train_loader(
            dataset,
            batch_size=data.batch_size,
            workers=data.workers,
            seed=seed,
            start=start,
            rank=rank,
            world=world,
            share=data.without_label(),
        )

    def val_loader(self, dataset: SeededDataset, rank: int = 0, world: int = 1) -> Loader:
        """Return the loader of one process's share of the validation split."""
        size, workers = self.config.validation.batch_size, self.config.data.workers
        return eval_loader(dataset, batch_size=size, workers=workers, rank=rank, world=world)

    @abstractmethod
    def student(self, weights: bool = True) -> nn.Module:
        """Return the student; the same seed gives the same weights, whatever teaches it.

        Args:
            weights: whether to load pretrained weights and checkpoint; False where others are loaded over them.
        """

    @abstractmethod
    def teacher(self, own: Config | None) -> BuiltTeacher:
        """Return the teacher with random weights: what it takes is known before there are any to load.

        Args:
            own: the config that trains it, if it has one.
        """

    @abstractmethod
    def load_teacher(self, teacher: BuiltTeacher, to_measure: bool = False) -> None:
        """Load the teacher's weights; those of its predictions suffice where it is only measured."""

    def finish_teacher(self, teacher: BuiltTeacher, run: Run, train_set: SeededDataset, console: Console) -> None:
        """Train what a teacher still lacks, once the run's directory is there; as a rule nothing."""
        return

    @abstractmethod
    def distiller(self, student: nn.Module, teacher: BuiltTeacher | None) -> Distiller:
        """Return the distiller that the config describes; without teacher it trains on the task loss alone."""

    @abstractmethod
    def inputs(self, batch: dict[str, Any]) -> tuple[Any, Any]:
        """Return what the distiller takes of a loader's batch: images and target."""

    @abstractmethod
    def metrics(self, **options: Any) -> Metric:
        """Return what measures a model; ``options`` are `torchmetrics.Metric`'s."""

    @abstractmethod
    def count(
        self, metrics: Metric, model: nn.Module, batch: dict[str, Any], teacher: BuiltTeacher | None = None
    ) -> None:
        """Count a model's predictions for one batch; where it is the teacher's, that is given too."""

    @abstractmethod
    def scalars(self, measured: dict[str, Any]) -> dict[str, float]:
        """Return what `metrics` computed by the names under which it is logged."""

    @abstractmethod
    def pictures(self, dataset: Any) -> pl.Callback:
        """Return what draws pictures of the validation split after each validation."""

    @abstractmethod
    def draw(
        self, item: dict[str, Any], model: nn.Module | None = None, teacher: BuiltTeacher | None = None
    ) -> Picture:
        """Draw an item of the validation split with its label, or with what a model predicts for it.

        Args:
            item: of `val_set`, without batch dimension.
            model: the student, or the teacher's model; None for the label.
            teacher: whose model it is; None for the student.
        """

    @abstractmethod
    def save_student(self, student: nn.Module, directory: Path) -> None:
        """Write the student so that it opens without this run."""

    @abstractmethod
    def load_student(self, directory: Path) -> nn.Module:
        """Open what `save_student` wrote."""


def measure(
    task: Task,
    model: nn.Module,
    teacher: BuiltTeacher | None = None,
    device: torch.device | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Return what the task's metrics say of a model over the config's validation split.

    Args:
        task: of the config.
        model: the student, or the teacher's model.
        teacher: whose model it is; None for the student.
        device: where; what ``trainer.accelerator`` says unless given.
        console: where progress is shown if it is a terminal; None for nowhere.

    Raises:
        SegkdError: there is no such device.
    """
    device = device or device_of(task.config)
    model = model.to(device).eval()
    # The process that measures does so alone, also where others run beside it.
    metrics = task.metrics(sync_on_compute=False).to(device)
    with torch.no_grad():
        loader = task.val_loader(task.val_set())
        for batch in shown(loader, len(loader), "student" if teacher is None else "teacher", console):
            task.count(metrics, model, move_data_to_device(batch, device), teacher)
    measured: dict[str, Any] = metrics.compute()
    return measured


def device_of(config: Config) -> torch.device:
    """Return the device that a config's ``trainer`` block names: the first, where it names several.

    Raises:
        SegkdError: there is no such device here.
    """
    kind, chosen = config.trainer.accelerator, config.trainer.devices
    if kind == "tpu":  # outside of Lightning's trainer nothing here runs on one
        return torch.device("cpu")
    device = find_device(kind, f"{config.name}: trainer.accelerator")
    if device.type == "cuda" and isinstance(chosen, list) and chosen:
        return find_device(f"cuda:{chosen[0]}", f"{config.name}: trainer.devices")
    return device
