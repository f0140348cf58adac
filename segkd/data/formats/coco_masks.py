"""Masks drawn from the objects of COCO's JSON: polygons and run lengths become a class for each pixel."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field, model_validator

from segkd.common.orientation import UPRIGHT, upright
from segkd.common.reading import Photo
from segkd.data.annotations import Annotations, Found
from segkd.data.boxes import AnnotatedSpec, AnnotatedSplit
from segkd.data.description import ClassSpec
from segkd.data.formats.coco import read_coco
from segkd.data.masks import MaskSamples, MaskSpec
from segkd.data.streets import Drawing


class CocoMasks(AnnotatedSpec, MaskSpec):
    """A data set whose masks are drawn from the objects of COCO's JSON; its categories are matched by name.

    Smaller objects lie on top of larger ones, of two of one size the later. The pixels of a crowd that no object covers
    count for nothing.

    Attributes:
        rest: the class of pixels that no object covers; None leaves them out.
    """

    title = "masks drawn from the polygons and run lengths of a JSON file as COCO writes it"
    parts: ClassVar[dict[str, type[BaseModel]]] = {
        "splits": AnnotatedSplit,
        "classes": ClassSpec,
        "drawing": Drawing,
    }
    stars: ClassVar[int] = 0
    has_masks: ClassVar[bool] = True

    splits: dict[str, AnnotatedSplit] = Field(min_length=1)
    rest: str | None = None

    @model_validator(mode="after")
    def _rest_is_a_class(self) -> "CocoMasks":
        if self.rest is not None and self.rest not in self.class_names:
            raise ValueError(f"rest: {self.rest!r} is none of the classes {', '.join(self.class_names)}")
        return self

    def read(self, split: str, base: Path, masks: bool) -> Found:
        """Return what the JSON file of a split holds, see `read_coco`."""
        return read_coco(self, split, base, masks)

    def find(self, split: str, base: Path, masks: bool) -> "DrawnMasks":
        """Return the images below ``base`` with masks drawn from their objects."""
        annotations, found = self.annotations(split, base, masks=True)
        samples = DrawnMasks(self, split, annotations)
        samples.problems, samples.remarks = found.problems, found.remarks
        return samples


class DrawnMasks(MaskSamples):
    """Images with a mask each that is drawn from their objects.

    Args:
        spec: the data set.
        split: which split of it.
        annotations: of all its images, read with masks.
    """

    spec: CocoMasks

    def __init__(self, spec: CocoMasks, split: str, annotations: Annotations) -> None:
        super().__init__(spec, split, annotations.images)
        self.annotations, self.dropped = annotations, annotations.dropped

    def label(self, index: int) -> np.ndarray:
        """Draw one image's mask, uint8 (H, W), in the size that its annotation gives."""
        spec, objects = self.spec, self.annotations.of(index)
        rest = spec.ignore_index if spec.rest is None else spec.class_names.index(spec.rest)
        mask = np.full(self.annotations.sizes[index], rest, dtype=np.uint8)
        drawn = self.annotations.masks(index).astype(bool)
        # A crowd lies below all that is outlined within it.
        order = sorted(range(len(drawn)), key=lambda k: (not objects.crowd[k], -int(drawn[k].sum())))
        for place in order:
            mask[drawn[place]] = spec.ignore_index if objects.crowd[place] else objects.labels[place] - 1
        return mask

    def align(self, index: int, photo: Photo, label: np.ndarray) -> np.ndarray:
        """Return a mask upright as its image is, see `Annotations.tag`."""
        tag = self.annotations.tag(index, photo)
        return label if tag == UPRIGHT else upright(label, tag)

    def told(self, indices: Sequence[int]) -> list[str]:
        """Return which classes do not occur, and how many objects are left out, and why."""
        return [
            *super().told(indices),
            *(f"{len(lines)} of {self.split} left out: {reason}" for reason, lines in self.dropped.items()),
        ]
