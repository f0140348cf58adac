"""A model that knows its own input and classes: student and teacher, measured, saved, opened and exported alike."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from segkd.class_map import map_classes, merged_classes
from segkd.preprocess import Preprocess

#: By task, what makes results for a person of images, see `Network.predict`.
PREDICTORS = {"segmentation": "segkd.segmentation.predict:predict", "detection": "segkd.detection.predict:predict"}

#: For a dense task of one's own.
_MAPS = "segkd.segmentation.predict:predict_maps"


class Network(nn.Module):
    """A model with all that is needed to use it.

    It takes raw images, uint8 or floating point in [0, 1], and normalises them itself. Where a distiller reads module
    paths of it, they are those of ``module``.

    Args:
        module: maps normalised images to what `segkd.adapter.read_logits` reads, to features, or, a detector, a list of
            images (and, in training, their targets) to what torchvision's detectors return.
        mean: of each channel, see `Preprocess`.
        std: likewise.
        white: likewise.
        size: likewise.
        multiple: likewise.
        classes: names in the order of the logits; none for a model whose features alone are read.
        class_map: of a teacher of other classes: for each of its own the student's, or None. Its logits are read in
            the student's classes then, see `map_classes`.
        as_map: called (module, what a submodule returned, (height, width) of the images), returns tokens as a map.
        task: what its output is: ``segmentation``, ``detection``.
        recorded: what else is known of it, as JSON: ``colors`` (RGB, of each class), ``ignore_index``, ``dataset``,
            ``window`` (that sliding inference takes unless told otherwise).
        family: name of the family that made the module, see `segkd.models.family`.
        settings: JSON values of which that family makes the module again.
        note: one line that a person is to be told of how it was made, see `segkd.models.family.Built`; empty for none.
        predictor: called (network, images, **options), returns a result for each; that of the task unless given.
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
        self.class_map = None if class_map is None else merged_classes(class_map)
        self.task, self.recorded = task, dict(recorded or {})
        self.family, self.settings, self.note = family, dict(settings or {}), note
        self._as_map, self._predictor = as_map, predictor
        self._seen: tuple[int, int] = (0, 0)

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
        """What is recorded with the model, as JSON: task, classes, mean, std, size, and what it was given besides."""
        seen = {"mean": list(self.preprocess.mean), "std": list(self.preprocess.std)}
        if self.preprocess.white != 1:
            seen["white"] = self.preprocess.white  # type: ignore[assignment]
        size = None if self.preprocess.size is None else list(self.preprocess.size)
        named = {"classes": self.classes} if self.classes else {}
        return {"task": self.task, **named, **seen, "size": size, **self.recorded}

    def predict(self, images: Any, **options: Any) -> Any:
        """Return what the model finds in one image or in several.

        A segmentation gives uint8 (H, W), the class of each pixel, and takes the options of
        `segkd.segmentation.predict.predict`; a detector gives boxes, see `segkd.detection.predict.predict`; a model of
        another task float32 (C, H, W), what it returns at the image's size.

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
        found: list[Any] = self.predict(list(images), **options)
        return found
