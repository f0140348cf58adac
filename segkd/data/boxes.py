"""Data sets whose labels are objects with a box and a class, which annotation files name."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field, model_validator

from segkd.common.orientation import UPRIGHT, upright, upright_boxes
from segkd.common.reading import Photo
from segkd.data.annotations import Annotations, Found, Objects
from segkd.data.description import ClassSpec, DatasetSpec, SplitSpec
from segkd.data.formats import format_names
from segkd.data.patterns import Pattern
from segkd.data.samples import Look, Samples, classes_have
from segkd.errors import SegkdError, nearest


class AnnotatedSplit(SplitSpec):
    """Where the images and annotations of one split lie, relative to the root; see each format."""

    annotations: str


class AnnotatedSpec(DatasetSpec):
    """A data set whose annotations name classes; labels are 1 to K in the order of ``classes``, 0 is background.

    Attributes:
        ignore: classes of the annotation files that are left out: their objects are as if they were not there.
    """

    parts: ClassVar[dict[str, type[BaseModel]]] = {"splits": AnnotatedSplit, "classes": ClassSpec}
    evidence = "annotations"
    stars: ClassVar[int] = 1
    """How many * ``images`` and ``annotations`` of a split hold: 1 for a file an image, 0 for one a split."""
    has_masks: ClassVar[bool] = False
    """Whether the files may hold masks of the objects."""

    splits: dict[str, Any] = Field(min_length=1)
    ignore: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _splits_fit_the_format(self) -> "AnnotatedSpec":
        for name, split in self.splits.items():
            for key in ("images", "annotations"):
                if getattr(split, key).count("*") != self.stars:
                    expected = "one *, which stands for the stem" if self.stars else "no *: a folder and a JSON file"
                    raise ValueError(
                        f"splits.{name}.{key} {getattr(split, key)!r} must hold {expected}, in format {self.format!r}"
                    )
                if self.stars:
                    Pattern(getattr(split, key))  # raises what is wrong with it
            if split.list is not None and not self.stars:
                raise ValueError(
                    f"splits.{name}.list is for format 'voc'; format {self.format!r} lists images in its JSON file"
                )
        return self

    @model_validator(mode="after")
    def _one_input(self) -> "AnnotatedSpec":
        for name, split in self.splits.items():
            if split.images_teacher is not None and self.holds == BoxSpec.holds:
                raise ValueError(f"splits.{name}.images_teacher is for masks: teachers of detectors see the images")
        return self

    @model_validator(mode="after")
    def _no_class_is_ignored(self) -> "AnnotatedSpec":
        for name in self.ignore:
            if name in self.class_names:
                raise ValueError(f"class {name!r} stands both in classes and in ignore: keep it in one of them")
        return self

    @classmethod
    def refusal(cls, content: dict[str, Any], found: type[DatasetSpec]) -> str:
        """Say why a description, in format ``found``, has no labels of this kind."""
        if "format" in content:
            return super().refusal(content, found)
        names = [name for name in format_names() if name not in ("masks", "colors", "coco_masks")]
        return (
            f"key 'format' is required: {', '.join(names[:-1])} or {names[-1]} "
            "(without it this is no data set for detection)"
        )

    @property
    def label_of(self) -> dict[str, int]:
        """Class name -> label, 1 to K."""
        return {name: label for label, name in enumerate(self.class_names, start=1)}

    def label_named(self, name: str) -> int:
        """Return the label of a class that a file names, 0 where it is ignored.

        Raises:
            ValueError: it is neither in ``classes`` nor in ``ignore``; what to put behind the file's name.
        """
        label = 0 if name in self.ignore else self.label_of.get(name)
        if label is None:
            raise ValueError(
                f"has the class {name!r}, which the data set does not name; {nearest(name, self.class_names)} To leave "
                f"it out: ignore: [{name}]"
            )
        return label

    def read(self, split: str, base: Path, masks: bool) -> Found:
        """Return what the files of a split hold; each format has its own.

        Args:
            split: which.
            base: where the data lie.
            masks: whether to read masks of the objects.

        Raises:
            SegkdError: a file that all depends on is missing or broken. What is wrong with single ones is listed.
        """
        raise NotImplementedError

    def annotations(self, split: str, base: Path, masks: bool) -> tuple[Annotations, Found]:
        """Return what the files hold, checked box by box, and as they hold it, with problems and remarks.

        Raises:
            SegkdError: masks are asked for and the format has none.
        """
        if masks and not self.has_masks:
            raise SegkdError(
                f"data set {self.name!r} has format {self.format!r}, which has no masks, as Mask R-CNN needs"
            )
        try:
            found = self.read(split, base, masks)
        except SegkdError as error:
            found = Found(problems=[str(error)])
        annotations = Annotations(found)
        remarks = list(found.remarks)
        unseen = [name for name, label in self.label_of.items() if label not in annotations.objects.labels]
        if unseen and len(annotations):
            remarks.append(f"{self.name} {split}: {classes_have(unseen)} no box")
        named = [
            f"ignore names the class {name!r}, which the annotations do not have; {nearest(name, sorted(found.names))}"
            for name in self.ignore
            if found.names and name not in found.names
        ]
        remarks += [f"{self.name} {split}: {line}" for line in named + annotations.repeated()]
        return annotations, replace(found, remarks=remarks)


class BoxSpec(AnnotatedSpec):
    """A data set of boxes; labels are 1 to K in the order of ``classes``, 0 is background."""

    holds = "boxes for detection"

    splits: dict[str, AnnotatedSplit] = Field(min_length=1)

    def find(self, split: str, base: Path, masks: bool) -> "BoxSamples":
        """Return the images below ``base`` with their objects, and with these objects' masks if asked for."""
        annotations, found = self.annotations(split, base, masks)
        samples = BoxSamples(self, split, annotations, masks)
        samples.problems, samples.remarks = found.problems, found.remarks
        return samples


class BoxSamples(Samples):
    """Images with `segkd.data.annotations.Objects` each.

    Args:
        spec: the data set.
        split: which split of it.
        annotations: of all its images.
        masks: whether the objects come with their masks.
    """

    noun = "boxes"

    def __init__(self, spec: DatasetSpec, split: str, annotations: Annotations, masks: bool) -> None:
        super().__init__(spec, split, annotations.images)
        self.annotations, self.masks = annotations, masks
        self.dropped = annotations.dropped

    def label(self, index: int) -> Objects:
        """Return the objects of one image."""
        objects = self.annotations.of(index)
        return objects._replace(masks=self.annotations.masks(index)) if self.masks else objects

    def nothing(self, size: tuple[int, int]) -> Objects:
        """Return no objects."""
        none = self.annotations.objects.select(slice(0))
        return none._replace(masks=np.zeros((0, *size), dtype=np.uint8)) if self.masks else none

    def align(self, index: int, photo: Photo, label: Objects) -> Objects:
        """Return the objects upright as their image is, see `Annotations.tag`."""
        tag = self.annotations.tag(index, photo)
        if tag == UPRIGHT:
            return label
        height, width = self.annotations.sizes[index].tolist()
        masks = label.masks
        if masks is not None:
            masks = upright(masks.transpose(1, 2, 0), tag).transpose(2, 0, 1)
        return label._replace(boxes=upright_boxes(label.boxes, tag, (height, width)), masks=masks)

    def heading(self) -> str:
        """Say how many images there are, and how many of them have no boxes."""
        without = sum(len(self.annotations.of(index).labels) == 0 for index in range(len(self)))
        return f"{len(self)} images, {without} without boxes"

    def tally(self, looks: Sequence[Look]) -> tuple[dict[str, Any], list[str], list[str]]:
        """Return how many boxes each class has, and how many are crowds or difficult."""
        objects = self.annotations.objects
        boxes = np.bincount(objects.labels, minlength=self.spec.num_classes + 1)[1:].tolist()
        counts = dict(zip(self.spec.class_names, boxes, strict=True))
        flagged = {"(crowd)": int(objects.crowd.sum()), "(difficult)": int(objects.difficult.sum())}
        return {**counts, **{name: count for name, count in flagged.items() if count}}, [], []

    def told(self, indices: Sequence[int]) -> list[str]:
        """Return how many boxes are left out, and why."""
        return [
            f"{len(lines)} {'box' if len(lines) == 1 else 'boxes'} of {self.split} left out: {reason}"
            for reason, lines in self.dropped.items()
        ]
