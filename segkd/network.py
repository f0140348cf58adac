"""A model that carries its preprocessing and classes: students and teachers are measured, saved and exported alike."""

import functools
import importlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses._common import UNKNOWN

#: By task, the function that predicts for images, as ``module:name``; see `Network.predict`.
PREDICTORS = {"segmentation": "segkd.segmentation.predict:predict", "detection": "segkd.detection.predict:predict"}

#: The same for a dense task of the user's own.
_MAPS = "segkd.segmentation.predict:predict_maps"


@dataclass(frozen=True)
class Preprocess:
    """How raw images become what a model takes.

    Args:
        mean: one for each channel, in units of ``white``.
        std: likewise, each above 0.
        white: the value of a white pixel before the mean is subtracted: 1 for most models, 255 for some.
        size: (height, width) that images are resized to before the model sees them; None keeps their own.
        multiple: what height and width must be multiples of; 1 for a model of any size.

    Raises:
        SegkdError: mean and std differ in length, or a deviation or ``white`` is not above 0.
    """

    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    white: float = 1.0
    size: tuple[int, int] | None = None
    multiple: int = 1

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # a list, as a file holds it, is taken too
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if len(self.mean) != len(self.std) or not self.mean:
            raise SegkdError(
                f"mean and std have one value for each channel, got {list(self.mean)} and {list(self.std)}"
            )
        if not all(value > 0 for value in (*self.std, self.white)):
            raise SegkdError(f"std and white must be above 0, got {list(self.std)} and {self.white}")

    @property
    def channels(self) -> int:
        """How many channels an image has."""
        return len(self.mean)

    def __call__(self, images: Tensor) -> Tensor:
        """Return images scaled to ``white`` and normalised; whoever calls this resizes them.

        Args:
            images: (B, channels, H, W) or (channels, H, W): uint8, or floating point in [0, 1].

        Raises:
            SegkdError: they have another number of channels.
        """
        if images.shape[-3] != self.channels:
            raise SegkdError(f"the model takes images of {self.channels} channels, got {tuple(images.shape)}")
        if images.dtype == torch.uint8:
            values = images.float() if self.white == 255 else images.float() / (255 / self.white)
        else:
            values = images if self.white == 1 else images * self.white
        if not any(self.mean) and self.std == (1.0,) * self.channels:
            return values
        mean, std = _on_device(self.mean, self.std, values.device, values.dtype)
        return (values - mean) / std


def unit(images: Tensor) -> Tensor:
    """Return images, uint8 or floating point in [0, 1], as floating point in [0, 1]."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


@functools.cache
def _on_device(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return mean and deviation as (channels, 1, 1), made once: a copy to a GPU in each step would wait for it."""
    of_mean, of_std = (torch.tensor(of, device=device, dtype=dtype).view(-1, 1, 1) for of in (mean, std))
    return of_mean, of_std


class ClassMap(NamedTuple):
    """By student class the teacher classes that make it up, how many the teacher has, and if it may lack classes."""

    groups: list[list[int]]
    total: int
    is_partial: bool = False


def merged_classes(class_map: Sequence[int | None], student_classes: int | None = None) -> ClassMap:
    """Return a class map turned round: the teacher classes of each student class.

    Args:
        class_map: for each teacher class the student class, or None for none.
        student_classes: how many the student has, of which the teacher may lack some; None: it lacks none.

    Raises:
        SegkdError: it is no list of whole numbers and None; or a student class is left without a teacher class, or is
            not below ``student_classes``.
    """
    try:
        class_map = [None if student is None else operator.index(student) for student in class_map]
    except TypeError:
        raise SegkdError(
            f"class_map is a list of the student class of each teacher class, a number or None, got {class_map!r}"
        ) from None
    classes = {student for student in class_map if student is not None}
    count = max(classes, default=-1) + 1 if student_classes is None else student_classes
    missing = [] if student_classes is not None else sorted(set(range(count)) - classes)
    if not classes or missing or min(classes) < 0:
        raise SegkdError(
            f"class_map must give each student class at least one teacher class; missing: {missing or 'all'}"
        )
    if max(classes) >= count:
        raise SegkdError(f"class_map names the student class {max(classes)}, and there are {count}, from 0 on")
    groups = [[teacher for teacher, student in enumerate(class_map) if student == c] for c in range(count)]
    return ClassMap(groups, len(class_map), student_classes is not None)


def map_classes(logits: Tensor, class_map: ClassMap) -> Tensor:
    """Return a teacher's logits (B, C_t, h, w) in the student's classes (B, C_s, h, w).

    With a partial map they are log-probabilities, `UNKNOWN` for a class that the teacher lacks.

    Raises:
        SegkdError: the map has not one entry for each of the teacher's classes.
    """
    if class_map.total != logits.shape[1]:
        raise SegkdError(
            f"class_map has {class_map.total} entries, the teacher {logits.shape[1]} classes: one for each"
        )
    if class_map.is_partial:
        logits = logits.log_softmax(1)
    lacking = torch.full_like(logits[:, 0], UNKNOWN)
    # The logarithm of a sum of probabilities: merged classes keep their joint share.
    return torch.stack([logits[:, group].logsumexp(1) if group else lacking for group in class_map.groups], 1)


class Network(nn.Module):
    """A module with its preprocessing, its classes, and what else is needed to use it.

    It takes raw images, uint8 or floating point in [0, 1], and normalises them itself. Module paths that a distiller
    reads of it are those of ``module``.

    Args:
        module: maps normalised images to what `segkd.adapter.read_logits` reads, or to features; or a detector, which
            maps a list of images (and, in training, their targets) to what torchvision's detectors return.
        mean, std, white, size, multiple: of its images, see `Preprocess`.
        classes: names in the order of the logits; none for a model whose features alone are read.
        class_map: of a teacher with other classes: the student class of each of its own, or None. Its logits are then
            read in the student's classes, see `map_classes`.
        student_classes: with a class map, how many the student has, where the teacher may lack some:
            `segkd.losses.PixelKD` with ``known`` compares the others.
        as_map: called (module, output of a submodule, (height, width) of the images), returns tokens as a map.
        task: what its output is: ``segmentation``, ``detection``.
        recorded: what else is known of it, as JSON: ``colors`` (RGB, of each class), ``ignore_index``, ``dataset``,
            ``window`` (that sliding inference takes unless told otherwise).
        family: name of the family that made the module, see `segkd.models.family`.
        settings: JSON values from which that family makes the module again.
        note: one line for the user on how it was made, see `segkd.models.family.Built`; empty for none.
        predictor: called (network, images, **options), returns a result for each image; default the task's.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        white: float = 1.0,
        size: Sequence[int] | None = None,
        multiple: int = 1,
        classes: Sequence[str] = (),
        class_map: Sequence[int | None] | None = None,
        student_classes: int | None = None,
        as_map: Callable[[nn.Module, Any, tuple[int, int]], Any] | None = None,
        task: str = "segmentation",
        recorded: Mapping[str, Any] | None = None,
        family: str | None = None,
        settings: Mapping[str, Any] | None = None,
        note: str = "",
        predictor: Callable[..., list[Any]] | None = None,
    ) -> None:
        super().__init__()
        self.module = module
        of_size = None if size is None else (int(size[0]), int(size[1]))
        self.preprocess = Preprocess(tuple(mean), tuple(std), white, of_size, multiple)
        self.classes = list(classes)
        self.class_map = None if class_map is None else merged_classes(class_map, student_classes)
        self.task, self.recorded = task, dict(recorded or {})
        self.family, self.settings, self.note = family, dict(settings or {}), note
        self._as_map, self._predictor = as_map, predictor
        self._seen = (0, 0)

    def extra_repr(self) -> str:
        """Return what its outputs depend on beside its parameters: the key of a stored average needs it."""
        return f"preprocess={self.preprocess}, class_map={self.class_map}"

    def forward(self, images: Any, *further: Any) -> Any:
        """Return what the module returns for raw images.

        Args:
            images: (B, channels, H, W), or, for a detector, a list of (channels, H, W).
            further: what else the module takes, such as a detector's targets.
        """
        if not isinstance(images, Tensor):
            return self.module([self.preprocess(image) for image in images], *further)
        self._seen = (int(images.shape[-2]), int(images.shape[-1]))
        return self.module(self.preprocess(images), *further)

    def map_classes(self, logits: Tensor) -> Tensor:
        """Return logits (B, C, h, w) in the student's classes, where there is a class map: else themselves."""
        return logits if self.class_map is None else map_classes(logits, self.class_map)

    def as_map(self, output: Any) -> Any:
        """Return what a submodule gave in the last forward pass, tokens as a map (B, C, h, w)."""
        return output if self._as_map is None else self._as_map(self.module, output, self._seen)

    @property
    def info(self) -> dict[str, Any]:
        """What is recorded with the model, as JSON: task, classes, mean, std, white, size, and ``recorded``."""
        images, named = self.preprocess, {"classes": self.classes} if self.classes else {}
        seen = {"mean": list(images.mean), "std": list(images.std)}
        white = {} if images.white == 1 else {"white": images.white}
        size = None if images.size is None else list(images.size)
        return {"task": self.task, **named, **seen, **white, "size": size, **self.recorded}

    def predict(self, images: Any, **options: Any) -> Any:
        """Return what the model finds in one image or in several.

        A segmentation gives uint8 (H, W), the class of each pixel, and takes the options of
        `segkd.segmentation.predict.predict`; a detector gives boxes, see `segkd.detection.predict.predict`; a model of
        another task float32 (C, H, W), its output at the image's size.

        Args:
            images: RGB, a PIL image (read upright, by its orientation tag) or uint8 (H, W, 3), of any size; or a list
                of such.
            options: of the task.

        Returns:
            The result of the one image, or a list of results.

        Raises:
            SegkdError: an array of another shape or type, or a wrong option.
        """
        place, _, name = PREDICTORS.get(self.task, _MAPS).partition(":")
        predict = self._predictor or getattr(importlib.import_module(place), name)
        several = isinstance(images, list | tuple)
        modes = {module: module.training for module in self.modules()}
        try:
            found = predict(self.eval(), list(images) if several else [images], **options)
        finally:
            for module, training in modes.items():
                module.training = training
        return found if several else found[0]

    def save(self, folder: str | Path) -> None:
        """Write ``model.safetensors`` and ``config.json``, which `segkd.load_student` opens, see `segkd.models.saved`.

        Raises:
            SegkdError: what is recorded cannot be written as JSON; nothing is written then.
            DiskFull: there is no room for the files.
        """
        importlib.import_module("segkd.models.saved").save(self, folder)

    @property
    def model(self) -> nn.Module:
        """The module, by its name of version 0.1."""
        return self.module

    def predict_batch(self, images: Sequence[Any], **options: Any) -> list[Any]:
        """Return what is found in several images: `predict` by its name of version 0.1."""
        return self.predict(list(images), **options)
