"""Tasks: what a task has of its own in a class of its own, and what is the same in every run, written once.

Nothing here loads torch before it is needed: configs are read and checked through these classes.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from segkd.data.description import DatasetSpec, read_spec
from segkd.errors import SegkdError
from segkd.training.measure import Measure
from segkd.training.schema import Config

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image
    from rich.console import Console
    from torchmetrics import Metric

    from segkd.adapter import Adapter
    from segkd.common.pictures import Color, Picture
    from segkd.data.dataset import SeededDataset
    from segkd.data.loading import Loader
    from segkd.data.transforms import Transform
    from segkd.distiller import Distiller
    from segkd.models.family import ModelBlock
    from segkd.network import Network
    from segkd.stored import Stored
    from segkd.training.module import DistillModule
    from segkd.training.run import Run
    from segkd.training.teacher_schema import StoreBlock


class Task(ABC):
    """One run's data and models. A class that derives from this is a task, defined by its attributes and methods alone.

    Args:
        config: of the run, an instance of `config_type`.

    Raises:
        SegkdError: the data set's description cannot be read.
    """

    name: ClassVar[str]
    """The name by which a config's ``task`` names it."""
    title: ClassVar[str] = ""
    """What it is, in a few words."""
    config_type: ClassVar[type[Config]]
    """The class of its configs."""
    family: ClassVar[str]
    """The family of a model whose block names none."""
    maps_classes: ClassVar[bool] = True
    """Whether a teacher's classes can be read as the student's."""
    measures: ClassVar[tuple[Measure, ...]]
    """What `metrics` computes, in the order in which it is shown; the first is the score, which picks the best."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.spec: Any = self.read_dataset(config.data.dataset).limited(config.data.max_pixels)

    # What a task has of its own.

    @classmethod
    def read_dataset(cls, name_or_path: str) -> DatasetSpec:
        """Read the description of a data set, which must be of the type that `labels` returns."""
        return read_spec(name_or_path, cls.labels(), own_code=True)

    @classmethod
    @abstractmethod
    def labels(cls) -> type[DatasetSpec]:
        """Return the type of the data sets' descriptions that the task takes."""

    def dataset(self, split: str, augmented: bool, **options: Any) -> "SeededDataset":
        """Return a split of the data, as training sees it or as it is measured."""
        from segkd.data.dataset import SeededDataset

        data, teachers = self.config.data, self.config.named_teachers().values()
        if augmented:
            options |= {"limit": data.limit, "unlabelled": self.unlabelled(), "views": data.views}
            options["own_jitter"] = getattr(data, "jitter_seen_by", "all") == "student"
            options["crops"] = any(block.store and block.store.whole for block in teachers)
        seed = self.config.seed if data.view_seed is None else data.view_seed
        return SeededDataset(self.spec, split, self.transform(augmented), data.root, seed, **options)

    def transform(self, augmented: bool) -> "Transform":
        """Return the transform of an image and its label, for training (``augmented``) or for measuring."""
        from segkd.data.transforms import eval_transform, train_transform

        data = self.config.data
        if not augmented:
            return eval_transform(getattr(self.config.validation, "resize", None))
        options: dict[str, Any] = {key: getattr(data, key) for key in ("scale", "flip", "color_jitter", "blur")}
        options["ignore_index"] = getattr(self.spec, "ignore_index", 255)
        return train_transform(data.crop, resize=getattr(data, "resize", None), **options)

    def remarks(self, dataset: "SeededDataset") -> list[str]:
        """Return what the user should know of a split before the run, see `SeededDataset.told`."""
        told = dataset.told()
        if dataset.unlabelled:
            data = self.config.data
            told.append(
                f"{len(dataset.unlabelled)} images without labels: {data.without_label()} of {data.batch_size} in each "
                "batch"
            )
            terms = self.config.distill.build_terms().items()
            if not terms and self.config.stages is None:
                told.append("nothing is learnt from images without labels: there are no terms")
            blind = [name for name, term in terms if getattr(term.loss, "ignore_index", None) is not None]
            if blind:
                told.append(f"terms with an ignore_index leave images without labels out: {', '.join(blind)}")
        return told

    def unlabelled(self) -> "list[Path]":
        """Return the images without labels that are mixed into the batches, as a rule none."""
        data = self.config.data
        return [] if data.unlabelled is None else self.spec.find_images(data.unlabelled.images, data.root)

    def samples(self, split: str, count: int) -> "Image.Image":
        """Return a picture of samples with their labels, before and after the training split's augmentation."""
        from segkd.data.check import contact_sheet

        data = self.config.data
        transform = self.transform(augmented=split == data.train_split)
        return contact_sheet(self.spec, split, transform, self.paint, count, self.config.seed, data.root)

    def paint(self, image: Any, label: Any) -> "Picture":
        """Draw a label over its image, for `samples`."""
        raise NotImplementedError

    @abstractmethod
    def inputs(self, batch: dict[str, Any]) -> tuple[Any, Any]:
        """Return what the distiller takes of a loader's batch: images and target."""

    @abstractmethod
    def metrics(self, **options: Any) -> "Metric":
        """Return the metric that measures a model; ``options`` are `torchmetrics.Metric`'s."""

    def count(self, metrics: "Metric", network: "Network", batch: dict[str, Any]) -> None:
        """Update the metrics with a model's predictions for one batch."""
        images, target = self.inputs(batch)
        metrics.update(self.predict(network, images, target), target)

    def predict(self, network: "Network", images: Any, target: Any) -> Any:
        """Return a model's predictions as the metrics take them, for the images and target of `inputs`."""
        return network(images)

    @abstractmethod
    def boards(self, module: "DistillModule", items: list[dict[str, Any]]) -> "dict[str, Picture]":
        """Return pictures for TensorBoard by name, drawn from one or more items of the validation split."""

    @abstractmethod
    def draw(self, item: dict[str, Any], network: "Network | None" = None) -> "Picture":
        """Draw an item of the validation split with its label, or with what a model predicts for it."""

    def adapter(self) -> "Adapter":
        """Return the adapter, which runs a batch through the models."""
        from segkd.adapter import Adapter

        return Adapter()

    def stored(self, network: "Network", block: "StoreBlock") -> "Stored":
        """Return a network as a stored teacher, as its block says: what depends on an image's view alone is kept."""
        from segkd.stored import Stored

        if key := "head" if block.head else "whole" if block.whole else "":
            raise SegkdError(f"{self.config.name}: teacher.store.{key} is not of {self.name}: leave it out")
        return Stored(network)

    def task_loss(self) -> Any:
        """Return the loss of the labels; None for models that bring their own."""
        return None

    def check_networks(self, networks: "Mapping[str, Network]") -> None:
        """Raise a `SegkdError` where one of these models, by their names, cannot take this run's data."""
        return

    def start(self, student: "Network", teachers: "Mapping[str, Network]") -> str:
        """Initialise a student from its teachers' weights, if the task does so; return a line on it, else nothing."""
        return ""

    def sizes(self) -> dict[str, Any]:
        """Return settings from this run's data for the keys that a model's block leaves at None."""
        return {}

    def info(self) -> dict[str, Any]:
        """Return what a saved student records of its task, beside its classes, their colours and the data set."""
        return {}

    def finish_teacher(
        self, name: str, network: "Network", run: "Run", train_set: "SeededDataset", console: "Console"
    ) -> None:
        """Train what a teacher still lacks, once the run's directory is there; as a rule nothing."""
        return

    # What is the same in all.

    @property
    def score(self) -> Measure:
        """Return the measure that picks the best student."""
        return self.measures[0]

    @property
    def class_names(self) -> list[str]:
        """Return the classes that are measured, in their order."""
        return list(self.spec.class_names)

    @property
    def legend(self) -> list[tuple[str, "Color"]]:
        """Return names and colours of the classes."""
        return list(zip(self.class_names, self.spec.colors, strict=True))

    def train_set(self) -> "SeededDataset":
        """Return the training split with its augmentation."""
        return self.dataset(self.config.data.train_split, augmented=True)

    def val_set(self) -> "SeededDataset":
        """Return the validation split."""
        return self.dataset(self.config.data.val_split, augmented=False)

    def train_loader(self, dataset: "SeededDataset", start: int = 0, rank: int = 0, world: int = 1) -> "Loader":
        """Return the endless loader of one process, after ``start`` samples that all of them have seen."""
        from segkd.data.loading import train_loader

        data = self.config.data
        of_data = {"batch_size": data.batch_size, "workers": data.workers, "share": data.without_label()}
        return train_loader(dataset, seed=self.config.seed, start=start, rank=rank, world=world, **of_data)

    def val_loader(self, dataset: "SeededDataset", rank: int = 0, world: int = 1) -> "Loader":
        """Return the loader of one process's share of the validation split."""
        from segkd.data.loading import eval_loader

        size, workers = self.config.validation.batch_size, self.config.data.workers
        return eval_loader(dataset, batch_size=size, workers=workers, rank=rank, world=world)

    def student(self, weights: bool = True) -> "Network":
        """Return the student; the same seed gives the same weights, whatever teaches it.
        ``weights=False`` leaves out pretrained weights and checkpoint, for a student whose weights are replaced anyway.

        Raises:
            SegkdError: it cannot be built; the config's name stands before the reason.
        """
        import torch

        torch.manual_seed(self.config.seed)
        try:
            network = self.network(self.config.student, self.class_names, weights)
        except SegkdError as error:
            raise SegkdError(f"{self.config.name}: student: {error}") from error.__cause__
        network.recorded.update(colors=self.spec.colors, dataset=self.spec.name, **self.info())
        return network

    def network(self, block: "ModelBlock", classes: Sequence[str] | None, weights: bool = True) -> "Network":
        """Return a model of a family, see `segkd.models.family.Family.build`."""
        from segkd.models.build import build_network

        block = block.model_copy(update={k: v for k, v in self.sizes().items() if getattr(block, k, 0) is None})
        return build_network(block.family or self.family, block, classes, weights, task=self.config.task)

    def distiller(self, student: "Network", teachers: "Mapping[str, Network] | None" = None) -> "Distiller":
        """Return the distiller that the config describes; without teachers it trains on the task loss alone."""
        from segkd.distiller import Distiller

        distill = self.config.distill
        read: dict[str, Any] = {k: net for k, net in (teachers or {}).items() if k in self.config.read_teachers()}
        self.check_networks({"student": student, **read})
        stores = {k: block.store for k, block in self.config.named_teachers().items() if block.store is not None}
        read = {k: self.stored(net, stores[k]) if k in stores else net for k, net in read.items()}
        task_loss = self.task_loss()
        try:
            return Distiller(
                student,
                read if self.config.teachers is not None else next(iter(read.values()), None),
                distill.build_terms(),
                task_loss,
                pixel_weighting=distill.build_weighting(getattr(self.spec, "ignore_index", 255)),
                schedule=distill.build_schedule(),
                adapter=self.adapter(),
                task_weight=distill.task_weight,
            )
        except SegkdError as error:
            raise SegkdError(f"{self.config.name}: distill: {error}") from None

    def scalars(self, measured: dict[str, Any]) -> dict[str, float]:
        """Return what `metrics` computed by the names for logging: ``val/miou``, and ``iou/sky`` for a class."""
        named = {f"val/{key}": value for key, value in measured.items() if not isinstance(value, list)}
        for key, values in measured.items():
            if isinstance(values, list):
                group = key.removeprefix("class_")
                named |= {f"{group}/{name}": value for name, value in zip(self.class_names, values, strict=True)}
        return named

    def load_student(self, directory: "str | Path") -> "Network":
        """Open a student that a run of this config has saved, see `segkd.models.saved.load_student`."""
        from segkd.models.saved import load_student

        block = self.config.student
        own = {"family": block.family if ":" in block.family else None, "task": self.config.task}
        return load_student(directory, getattr(block, "build", None), **own)
