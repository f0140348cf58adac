"""Data sets whose labels give each pixel a class."""

import os
import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, Field, field_validator, model_validator

from segkd.common.orientation import upright
from segkd.common.reading import Photo
from segkd.data.description import Byte, ClassSpec, DatasetSpec, SplitSpec
from segkd.data.occurrence import missing, occurring, one_alone
from segkd.data.patterns import Pattern
from segkd.data.samples import Look, Samples
from segkd.data.streets import Drawing, ensure_streets
from segkd.errors import SegkdError


class Pair(NamedTuple):
    """One image and the mask that belongs to it."""

    image: Path
    mask: Path


class PairSplit(SplitSpec):
    """Where the images and masks of one split lie, relative to the root.

    ``*`` is the only wildcard and stays within one path component; a suffix may be one of several, ``*.{jpg,png}``, and
    upper and lower case are the same in it. The text that the wildcards match in the image's path, put into the
    wildcards of ``masks``, gives the mask's path. Of a ``list`` only images whose last wildcard matched a listed stem
    belong to the split.
    """

    masks: str

    @field_validator("images", "masks")
    @classmethod
    def _one_kind_of_wildcard(cls, pattern: str) -> str:
        if "*" not in pattern or "**" in pattern or re.search(r"[?\[\]]", pattern):
            raise ValueError(f"{pattern!r} must hold at least one *, the only wildcard understood (no **, ? or [])")
        return Pattern(pattern).text

    @model_validator(mode="after")
    def _as_many_wildcards(self) -> "PairSplit":
        if self.images.count("*") != self.masks.count("*"):
            raise ValueError(
                f"images {self.images!r} and masks {self.masks!r} must have the same number of *, "
                "since what they match pairs image and mask"
            )
        return self


class MaskSpec(DatasetSpec):
    """A data set of masks; they arrive as class ids in the order of ``classes``.

    Attributes:
        classes: the classes in train-id order; ``ignore_index`` is none of them.
        ignore_index: the id (0 to 255) of pixels that count for nothing.
        generator: ``"streets"`` when the data set is drawn on first use instead of downloaded.
        drawing: how many scenes the generator draws, how large and from which seed.
    """

    holds = "masks for segmentation"
    parts: ClassVar[dict[str, type[BaseModel]]] = {"classes": ClassSpec, "drawing": Drawing}

    classes: list[ClassSpec] = Field(min_length=1, max_length=255)
    ignore_index: Byte = 255
    generator: Literal["streets"] | None = None
    drawing: Drawing | None = None

    @model_validator(mode="after")
    def _classes_and_drawing(self) -> "MaskSpec":
        count = len(self.classes)
        if count < 2:
            raise ValueError(
                f"one class alone, {self.class_names[0]!r}, makes every pixel right (mIoU 100 from the first step): "
                "name the rest of the image as a class too, such as background"
            )
        if self.ignore_index < count:
            raise ValueError(f"ignore_index {self.ignore_index} is also a class id: use one from {count} to 255")
        if (self.generator is None) != (self.drawing is None):
            raise ValueError("generator and drawing go together: give both or neither")
        return self

    def resolve_root(self, root: str | os.PathLike[str] | None = None) -> Path:
        """Where the data lie: ``root`` or the spec's own, else ``$SEGKD_DATA/<name>``, else ``datasets/<name>``.

        A drawn data set that is not in ``$SEGKD_DATA`` goes to ``datasets/<name>``: data of one's own may be read-only.
        """
        own = Path("datasets") / self.name
        there = super().resolve_root(root)
        return own if self.generator and not (root or self.root or there.is_dir()) else there

    def existing_root(self, root: str | os.PathLike[str] | None = None) -> Path:
        """Return :meth:`resolve_root`; a generated data set is drawn first if it is not there."""
        if self.generator and self.drawing:
            ensure_streets(self.resolve_root(root), self.drawing)
        return super().existing_root(root)

    def cause(self, counts: np.ndarray, absent: list[int]) -> str:
        """Say what may be the cause that classes do not occur, to go behind that; nothing where there is no telling.

        Args:
            counts: pixels of each class id, (256,).
            absent: the ids of which there are none.
        """
        return ""


class MaskSamples(Samples):
    """Images with a mask each: an array (H, W) of class ids, and of ``ignore_index`` where pixels do not count."""

    noun = "masks"
    spec: MaskSpec

    def nothing(self, size: tuple[int, int]) -> np.ndarray:
        """Return a mask of pixels that count for nothing."""
        return np.full(size, self.spec.ignore_index, dtype=np.uint8)

    def count(self, label: np.ndarray) -> np.ndarray:
        """Return the pixels of each class id, int64 (256,)."""
        return np.bincount(label.ravel(), minlength=256)

    def heading(self) -> str:
        """Say how many pairs of image and mask there are."""
        return f"{len(self)} pairs"

    def tally(self, looks: Sequence[Look]) -> tuple[dict[str, Any], list[str], list[str]]:
        """Return each class's share of the pixels; a class that does not occur is a remark, one alone a problem."""
        seen = [look.count for look in looks if look.count is not None]
        counts = sum(seen, np.zeros(256, dtype=np.int64))
        percent = 100 * counts / max(counts.sum(), 1)
        shares = {name: float(percent[number]) for number, name in enumerate(self.spec.class_names)}
        shares["(ignored)"] = float(percent[self.spec.ignore_index])
        absent = missing(counts, self.spec, f"any of {sum(bool(count.any()) for count in seen)} masks")
        if not absent or not counts.any():  # no mask could be read, which is said
            return shares, [], []
        said = [f"{self.spec.name} {self.split}: {absent}"]
        return (shares, said, []) if one_alone(counts, self.spec) else (shares, [], said)

    def told(self, indices: Sequence[int]) -> list[str]:
        """Return which classes do not occur, as far as a look at some masks tells.

        Raises:
            SegkdError: all masks were looked at, and one class is all that occurs; or one of them cannot be read.
        """
        counts, looked = occurring(self, indices)
        total = len(indices)
        masks = f"any of {total} masks" if looked == total else f"{looked} of {total} masks ('data check' reads all)"
        absent = missing(counts, self.spec, masks)
        remark = f"{self.spec.name} {self.split}: {absent}"
        if absent and looked == total and one_alone(counts, self.spec):
            raise SegkdError(remark)
        return [remark] if absent else []


class PairedMasks(MaskSamples):
    """Images with a file of a mask each; a format derives its own, which reads one.

    Args:
        spec: the data set.
        split: which split of it.
        pairs: of image and mask.
    """

    def __init__(self, spec: MaskSpec, split: str, pairs: list[Pair]) -> None:
        super().__init__(spec, split, [pair.image for pair in pairs])
        self.pairs = pairs

    def label(self, index: int) -> np.ndarray:
        """Read a mask as uint8 (H, W) of class ids; its own orientation tag is applied.

        Raises:
            SegkdError: it cannot be read, or a format of one's own gives what is no class.
        """
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

    @abstractmethod
    def read_mask(self, path: Path) -> np.ndarray:
        """Read the file of a mask (H, W), see `label`.

        Raises:
            SegkdError: it cannot be read.
        """

    def align(self, index: int, photo: Photo, label: np.ndarray) -> np.ndarray:
        """Return a mask (H, W) in the size of its image, which was turned by its orientation tag.

        A mask without a tag of its own was drawn over the image either as it is seen or as it is stored. Which of the
        two its size tells; where it tells nothing, as the image is seen, which is what labelling tools show.

        Raises:
            SegkdError: the two differ in size either way; both files are named.
        """
        size = photo.pixels.shape[:2]
        if size != label.shape:
            along = upright(label, photo.tag)
            if size == along.shape:
                return along
            pair = self.pairs[index]
            raise SegkdError(
                f"image {pair.image} is {size[1]}x{size[0]} but "
                f"mask {pair.mask} is {label.shape[1]}x{label.shape[0]} (width x height)"
            )
        return label
