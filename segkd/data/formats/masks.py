"""Masks: an image file for each image, which holds ids, or shows each class in its colour."""

from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from segkd.common.orientation import upright
from segkd.common.reading import open_image
from segkd.data.description import Byte, ClassSpec, Color
from segkd.data.masks import MaskSpec, PairedMasks, PairSplit
from segkd.data.splits import match_files
from segkd.data.streets import Drawing
from segkd.errors import SegkdError

INVALID = -1
_WITH_ALPHA = {"LA", "PA", "RGBA"}
_MODES = {"1", "L", "P", "RGB"} | _WITH_ALPHA
_LOSSY = {"JPEG", "MPO"}


class Masks(MaskSpec):
    """A data set of images and files of masks.

    Attributes:
        splits: the files of each split.
        masks: what mask files hold: ``"ids"``, or ``"colors"``, each class in its own; None takes files of RGB for
            colours, those of one channel or with a palette for ids.
        ignore_colors: RGB of pixels that count for nothing, in masks of colours.
        label_map: raw id in the mask file -> class id or ``"ignore"``. A raw id outside the map is an error. Without
            a map raw ids are class ids, and anything but a class id or ``ignore_index`` is an error.
    """

    title = "masks as image files: ids, or each class in its colour"
    parts: ClassVar[dict[str, type[BaseModel]]] = {"splits": PairSplit, "classes": ClassSpec, "drawing": Drawing}

    splits: dict[str, PairSplit] = Field(min_length=1)
    masks: Literal["ids", "colors"] | None = None
    ignore_colors: list[Color] = Field(default=[], max_length=255)
    label_map: dict[Byte, Byte | Literal["ignore"]] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> "Masks":
        count = len(self.classes)
        for raw, target in (self.label_map or {}).items():
            if target != "ignore" and target >= count:
                raise ValueError(f"label_map sends raw id {raw} to class {target}, but class ids end at {count - 1}")
        if self.masks == "colors" and self.shared_color:
            raise ValueError(f"masks: colors, but {self.shared_color}")
        if self.masks == "colors" and self.label_map is not None:
            raise ValueError("label_map is of ids, and masks: colors has none: leave one of them out")
        for color in set(self.ignore_colors) & set(self.colors):
            raise ValueError(f"ignore_colors has {list(color)}, the colour of class {self._of_color(color)[0]!r}")
        return self

    @cached_property
    def lookup(self) -> np.ndarray:
        """Table (256,) int16 from raw id to class id or ``ignore_index``; -1 where a raw id is an error."""
        table = np.full(256, INVALID, dtype=np.int16)
        if self.label_map is None:
            table[: self.num_classes] = np.arange(self.num_classes)
            table[self.ignore_index] = self.ignore_index
        else:
            for raw, target in self.label_map.items():
                table[raw] = self.ignore_index if target == "ignore" else target
        return table

    @cached_property
    def color_lookup(self) -> np.ndarray:
        """Table (2**24,) int16 from colour, as red * 2**16 + green * 2**8 + blue, to what `lookup` gives for an id."""
        table = np.full(1 << 24, INVALID, dtype=np.int16)
        ids = [*range(self.num_classes), *[self.ignore_index] * len(self.ignore_colors)]
        for (red, green, blue), target in zip([*self.colors, *self.ignore_colors], ids, strict=True):
            table[red << 16 | green << 8 | blue] = target
        return table

    @property
    def shared_color(self) -> str:
        """Which classes have one colour; empty where each has its own."""
        for color in self.colors:
            names = self._of_color(color)
            if len(names) > 1:
                return f"classes {names[0]!r} and {names[1]!r} share the colour {list(color)}"
        return ""

    def _of_color(self, color: tuple[int, int, int]) -> list[str]:
        return [item.name for item in self.classes if item.color == color]

    def find(self, split: str, base: Path, masks: bool = False) -> "MaskFiles":
        """Return the pairs of image and mask below ``base``."""
        files = match_files(f"{self.name} {split}", self.splits, split, base)
        found = MaskFiles(self, split, files.pairs)
        found.problems, found.remarks = files.problems, files.remarks
        return found

    def cause(self, counts: np.ndarray, absent: list[int]) -> str:
        """Say what may be the cause that classes do not occur."""
        if self.label_map is not None:
            unmapped = [number for number in absent if number not in self.label_map.values()]
            return f"; label_map sends no id to {self.class_names[unmapped[0]]!r}" if unmapped else ""
        ignored = counts[self.ignore_index]
        if not ignored or self.masks == "colors" or self.ignore_colors:
            return ""
        text = f"; {100 * ignored / counts.sum():.0f} % are {self.ignore_index}, which is ignored"
        if len(absent) > 1:
            return f"{text}: if that is one of them, say so in label_map"
        kept = [f"{number}: {number}" for number in range(self.num_classes) if number not in absent]
        mapped = ", ".join([*kept, f"{self.ignore_index}: {absent[0]}"])
        return f"{text}: if that is {self.class_names[absent[0]]!r}, say label_map: {{{mapped}}}"


class MaskFiles(PairedMasks):
    """Images and the files of their masks."""

    spec: Masks

    def read_mask(self, path: Path) -> np.ndarray:
        """Read a mask as uint8 (H, W) of class ids, ``ignore_index`` where pixels do not count.

        Whether a file holds ids or colours is said in `Masks`. A palette's indices are ids, unless its ``masks`` is
        ``"colors"``. A mask's own orientation tag is applied.

        Raises:
            SegkdError: missing, truncated or unknown file; a JPEG; a mask of more than 8 bits or with transparent
                pixels; a raw id or a colour that the data set does not know.
        """
        spec = self.spec
        mask, _, left, _ = open_image(path, "mask", spec.max_pixels)
        if mask.format in _LOSSY or "jpeg" in str(mask.info.get("compression")):
            raise SegkdError(
                f"mask {path} is a JPEG inside, whose compression changes ids: save it as PNG from where it was drawn "
                "(a JPEG that is converted keeps its faults)"
            )
        if mask.mode not in _MODES:
            raise SegkdError(f"mask {path} has mode {mask.mode!r}; expected 8 bits a channel: ids, a palette or RGB")
        if mask.mode in _WITH_ALPHA:
            clear = np.count_nonzero(np.asarray(mask)[..., -1] != 255)
            if clear:
                raise SegkdError(f"mask {path}: {clear} pixels are not opaque: save it without transparency")
        in_color = mask.mode.startswith("RGB") if spec.masks is None else spec.masks == "colors"
        if in_color:
            return _ids_of_colors(path, upright(np.asarray(mask.convert("RGB")), left), spec)
        raw = upright(_one_channel(path, np.asarray(mask), mask.mode), left)
        ids = spec.lookup[raw]
        if ids.min() == INVALID:
            unknown = np.unique(raw[ids == INVALID])
            known = "label_map" if spec.label_map is not None else f"the {spec.num_classes} classes"
            listed = ", ".join(str(value) for value in unknown[:8]) + (", ..." if unknown.size > 8 else "")
            raise SegkdError(
                f"mask {path} holds raw id {listed}, which {known} of data set {spec.name!r} and "
                f"ignore_index {spec.ignore_index} do not cover"
            )
        return ids.astype(np.uint8)


def _one_channel(path: Path, pixels: np.ndarray, mode: str) -> np.ndarray:
    """Return raw ids, uint8 (H, W), of pixels in one of `_MODES`."""
    if mode.startswith("RGB") and (pixels[..., :3] != pixels[..., :1]).any():
        raise SegkdError(f"mask {path} has colours, but its data set says masks: ids")
    return (pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.uint8)


def _ids_of_colors(path: Path, colors: np.ndarray, spec: Masks) -> np.ndarray:
    """Return class ids, uint8 (H, W), of a mask's RGB colours, uint8 (H, W, 3)."""
    twice = spec.shared_color
    if twice:
        raise SegkdError(f"mask {path} has colours, but {twice}")
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    ids = spec.color_lookup[red << 16 | green << 8 | blue]
    if ids.min() == INVALID:
        raise SegkdError(f"mask {path}: {_unknown(colors[ids == INVALID], spec)}")
    return ids.astype(np.uint8)


def _unknown(colors: np.ndarray, spec: Masks) -> str:
    values, counts = np.unique(colors, axis=0, return_counts=True)
    common = counts.argmax()
    text = (
        f"{counts[common]} pixels have the colour {values[common].tolist()}, which is of no class of data set "
        f"{spec.name!r} and not in its ignore_colors"
    )
    if len(values) > 1:
        text += (
            f", as are {counts.sum() - counts[common]} pixels of {len(values) - 1} other colours "
            "(edges that were smoothed, by drawing, resizing or a lossy format?)"
        )
    if (values == values[:, :1]).all():
        text += "; all are grey: if they are ids, say masks: ids"
    return text
