"""Masks drawn from the objects of COCO's JSON: polygons and run lengths become a class for each pixel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import model_validator

from segkd.common.orientation import upright
from segkd.common.reading import Photo
from segkd.data.annotations import AnnotatedSamples
from segkd.data.formats.coco import CocoFile
from segkd.data.masks import MaskSamples, MaskSpec


class DrawnMasks(AnnotatedSamples, MaskSamples):
    """Images with a mask each that is drawn from their objects."""

    spec: "CocoMasks"

    def label(self, index: int) -> np.ndarray:
        """Draw one image's mask, uint8 (H, W), in the size that its annotation gives."""
        spec, objects = self.spec, self.of(index)
        rest = spec.ignore_index if spec.rest is None else spec.class_names.index(spec.rest)
        mask = np.full(self.sizes[index], rest, dtype=np.uint8)
        drawn = self.masks(index).astype(bool)
        # A crowd lies below all that is outlined within it.
        order = sorted(range(len(drawn)), key=lambda k: (not objects.crowd[k], -int(drawn[k].sum())))
        for place in order:
            mask[drawn[place]] = spec.ignore_index if objects.crowd[place] else objects.labels[place] - 1
        return mask

    def align(self, index: int, photo: Photo, label: np.ndarray) -> np.ndarray:
        """Return a mask upright as its image is, see `AnnotatedSamples.turn`."""
        return upright(label, self.turn(index, photo))

    def told(self, indices: Sequence[int]) -> list[str]:
        """Return which classes do not occur, and how many objects are left out, and why."""
        dropped = [f"{len(lines)} of {self.split} left out: {reason}" for reason, lines in self.dropped.items()]
        return super().told(indices) + dropped


class CocoMasks(CocoFile, MaskSpec):
    """A data set whose masks are drawn from the objects of COCO's JSON; its categories are matched by name.

    Smaller objects lie on top of larger ones, of two of one size the later. The pixels of a crowd that no object covers
    count for nothing.

    Attributes:
        rest: the class of pixels that no object covers; None leaves them out.
    """

    title = "masks drawn from polygons and run lengths, a file like COCO's"
    made_of = DrawnMasks

    rest: str | None = None

    @model_validator(mode="after")
    def _rest_is_a_class(self) -> "CocoMasks":
        if self.rest is not None and self.rest not in self.class_names:
            raise ValueError(f"rest: {self.rest!r} is none of the classes {', '.join(self.class_names)}")
        return self

    def find(self, split: str, base: Path, masks: bool) -> AnnotatedSamples:
        """Return the images below ``base`` with masks drawn from their objects."""
        return super().find(split, base, masks=True)
