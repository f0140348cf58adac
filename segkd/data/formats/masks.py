"""Masks: an image file for each image, which holds ids, or shows each class in its colour."""

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError, ValidationInfo, field_validator, model_validator

from segkd.common.orientation import upright
from segkd.common.plain import written
from segkd.common.reading import DEEP, Photo, open_image
from segkd.data.description import Byte, Color
from segkd.data.masks import MaskSamples, MaskSpec, Pair, PairSplit, match_files
from segkd.errors import SegkdError, nearest

INVALID = -1
_WITH_ALPHA = {"LA", "PA", "RGBA"}
_MODES = {"1", "L", "P", "RGB"} | _WITH_ALPHA
_LOSSY = {"JPEG", "MPO"}
_BYTE = TypeAdapter(Byte)


class MaskFiles(MaskSamples):
    """Images with a file of a mask each."""

    spec: "Masks"

    def __init__(self, spec: "Masks", split: str, pairs: list[Pair]) -> None:
        super().__init__(spec, split, [pair.image for pair in pairs])
        self.pairs = pairs

    def label(self, index: int) -> np.ndarray:
        """Read a mask as uint8 (H, W) of class ids, and see that they are, whatever format of one's own has read it."""
        path, spec = self.pairs[index].mask, self.spec
        mask = self.read_mask(path)
        if mask.ndim != 2:
            raise SegkdError(f"mask {path} was read as {tuple(mask.shape)}, not as (height, width)")
        wrong = mask[(mask >= spec.num_classes) & (mask != spec.ignore_index)]
        if wrong.size:
            raise SegkdError(
                f"mask {path} was read with id {wrong[0]}: neither one of the {spec.num_classes} classes of "
                f"{spec.name!r} nor ignore_index {spec.ignore_index}"
            )
        return mask

    def align(self, index: int, photo: Photo, label: np.ndarray) -> np.ndarray:
        """Return a mask (H, W) in the size of its image, which was turned by its orientation tag.

        A mask without a tag of its own was drawn over the image either as it is seen or as it is stored. Which of the
        two its size tells; where it tells nothing, as the image is seen, which is what labelling tools show.
        """
        size = photo.pixels.shape[:2]
        if size == label.shape:
            return label
        along = upright(label, photo.tag)
        if size == along.shape:
            return along
        pair = self.pairs[index]
        raise SegkdError(
            f"image {pair.image} is {size[1]}x{size[0]} but "
            f"mask {pair.mask} is {label.shape[1]}x{label.shape[0]} (width x height)"
        )

    def read_mask(self, path: Path) -> np.ndarray:
        """Read a mask as uint8 (H, W) of class ids, ``ignore_index`` where pixels do not count.

        Whether a file holds ids or colours is said in `Masks`. A palette's indices are ids, unless its ``masks`` is
        ``"colors"``. A mask's own orientation tag is applied.
        """
        spec = self.spec
        mask, _, left, converted = open_image(path, "mask", spec.max_pixels)
        if mask.format in _LOSSY or "jpeg" in str(mask.info.get("compression")):
            raise SegkdError(
                f"mask {path} is a JPEG inside, whose compression changes ids: save it as PNG from where it was drawn "
                "(a JPEG that is converted keeps its faults)"
            )
        if mask.mode not in _MODES:
            raise SegkdError(f"mask {path} has mode {mask.mode!r}; expected 8 bits a channel: ids, a palette or RGB")
        pixels = np.asarray(mask)
        if mask.mode in _WITH_ALPHA and (clear := np.count_nonzero(pixels[..., -1] != 255)):
            raise SegkdError(f"mask {path}: {clear} pixels are not opaque: save it without transparency")
        colored = mask.mode.startswith("RGB")
        if colored if spec.masks is None else spec.masks == "colors":
            if spec.shared_color:
                raise SegkdError(f"mask {path} has colours, but {spec.shared_color}")
            pixels, table = upright(np.asarray(mask.convert("RGB")), left), spec.color_lookup
            red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
            raw = red << 16 | green << 8 | blue
        else:
            if colored and (pixels[..., :3] != pixels[..., :1]).any():
                raise SegkdError(f"mask {path} has colours, but its data set says masks: ids")
            if DEEP in converted:  # PIL keeps the upper eight, in which every id is 0
                raise SegkdError(f"mask {path} has ids of 16 bits; expected 8 bits a channel")
            pixels = upright((pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.uint8), left)
            raw, table = pixels, spec.lookup
        ids = table[raw]
        if ids.min() == INVALID:
            raise SegkdError(f"mask {path}{_unknown(pixels[ids == INVALID], spec)}")
        return ids.astype(np.uint8)


class Masks(MaskSpec):
    """A data set of images and files of masks.

    Attributes:
        masks: what mask files hold: ``"ids"``, or ``"colors"``, each class in its own; None takes files of RGB for
            colours, those of one channel or with a palette for ids.
        ignore_colors: RGB of pixels that count for nothing, in masks of colours.
        label_map: raw id in the mask file -> class id or ``"ignore"``. A raw id outside the map is an error. Without
            a map raw ids are class ids, and anything but a class id or ``ignore_index`` is an error.
    """

    title = "masks as image files: ids, or each class in its colour"
    made_of: ClassVar[type[MaskFiles]] = MaskFiles  # what a split is

    splits: dict[str, PairSplit] = Field(min_length=1)
    masks: Literal["ids", "colors"] | None = None
    ignore_colors: list[Color] = Field(default=[], max_length=255)
    label_map: dict[Byte, Byte | Literal["ignore"]] | None = None

    @field_validator("label_map", mode="before")
    @classmethod
    def _ids(cls, said: Any, info: ValidationInfo) -> Any:
        # In words: of a value of one of two types pydantic says by its own names what it lacks to be either.
        names = [item.name for item in info.data.get("classes", ())]  # none where these are wrong, which is told
        for raw, target in said.items() if names and isinstance(said, Mapping) else ():
            if not _is_byte(raw):
                raise ValueError(f"expected raw ids as keys, whole numbers from 0 to 255, got {written(raw)}")
            if target != "ignore" and not _is_byte(target):
                hint = f"{target!r} has id {names.index(target)}" if target in names else nearest(target, ["ignore"])
                is_close = isinstance(target, str) and not hint.startswith("valid")
                raise ValueError(
                    f"raw id {raw}: expected a class id, a whole number from 0 to {len(names) - 1}, or ignore, got "
                    f"{written(target)}{f' ({hint})' if is_close else ''}"
                )
        return said

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
            name = self.class_names[self.colors.index(color)]
            raise ValueError(f"ignore_colors has {list(color)}, the colour of class {name!r}")
        return self

    @cached_property
    def lookup(self) -> np.ndarray:
        """Table (256,) int16 from raw id to class id or ``ignore_index``; -1 where a raw id is an error."""
        table = np.full(256, INVALID, dtype=np.int16)
        same = {number: number for number in (*range(self.num_classes), self.ignore_index)}
        for raw, target in (same if self.label_map is None else self.label_map).items():
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
        for color, count in Counter(self.colors).items():
            if count > 1:
                one, other, *_ = [item.name for item in self.classes if item.color == color]
                return f"classes {one!r} and {other!r} share the colour {list(color)}"
        return ""

    def find(self, split: str, base: Path, masks: bool = False) -> MaskFiles:
        """Return the pairs of image and mask below ``base``."""
        files = match_files(f"{self.name} {split}", self.splits, split, base)
        found = self.made_of(self, split, files.pairs)
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


def _is_byte(value: Any) -> bool:
    try:
        _BYTE.validate_python(value)
    except ValidationError:
        return False
    return not isinstance(value, bool)


def _unknown(pixels: np.ndarray, spec: Masks) -> str:
    """Say which ids (N,) or colours (N, 3) a data set does not know."""
    values, counts = np.unique(pixels, axis=0, return_counts=True)
    if pixels.ndim == 1:
        known = "label_map" if spec.label_map is not None else f"the {spec.num_classes} classes"
        listed = ", ".join(str(value) for value in values[:8]) + (", ..." if values.size > 8 else "")
        return (
            f" holds raw id {listed}, which {known} of data set {spec.name!r} and ignore_index {spec.ignore_index} "
            "do not cover"
        )
    common = counts.argmax()
    text = (
        f": {counts[common]} pixels have the colour {values[common].tolist()}, which is of no class of data set "
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
