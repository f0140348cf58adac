"""Data sets whose labels are objects with a box and a class, which annotation files name: one a split or an image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field, model_validator

from segkd.common.orientation import UPRIGHT, upright, upright_boxes, upright_size
from segkd.common.paths import check_regular
from segkd.common.reading import Photo, opening, read_stems
from segkd.data.annotations import AnnotatedSamples, Box, Found, Objects
from segkd.data.description import DatasetSpec, SplitSpec
from segkd.data.patterns import Matches, Pattern, unclaimed
from segkd.data.samples import Look, classes_have
from segkd.errors import SegkdError, nearest
from segkd.registry import things


class AnnotatedSplit(SplitSpec):
    """Where the images and annotations of one split lie, relative to the root; see each format."""

    annotations: str


class AnnotatedSpec(DatasetSpec):
    """A data set whose annotations name classes; labels are 1 to K in the order of ``classes``, 0 is background.

    Objects of the classes in ``ignore`` are as if they were not there.
    """

    evidence = "annotations"
    stars: ClassVar[int] = 1  # that ``images`` and ``annotations`` of a split hold: 1 for a file an image, 0 a split
    has_masks: ClassVar[bool] = False  # whether the files may hold masks of the objects
    made_of: ClassVar[type[AnnotatedSamples]]  # what a split is

    splits: dict[str, AnnotatedSplit] = Field(min_length=1)
    ignore: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _splits_and_classes_fit(self) -> "AnnotatedSpec":
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
            if split.images_teacher is not None and self.holds == BoxSpec.holds:
                raise ValueError(f"splits.{name}.images_teacher is for masks: teachers of detectors see the images")
        for name in self.ignore:
            if name in self.class_names:
                raise ValueError(f"class {name!r} stands both in classes and in ignore: keep it in one of them")
        return self

    @classmethod
    def refusal(cls, content: dict[str, Any], found: type[DatasetSpec]) -> str:
        """Say why a description, in format ``found``, has no labels of this kind."""
        if "format" in content:
            return super().refusal(content, found)
        *names, last = [name for name in things("format") if name not in ("masks", "colors", "coco_masks")]
        return f"key 'format' is required: {', '.join(names)} or {last} (without it this is no data set for detection)"

    @property
    def label_of(self) -> dict[str, int]:
        """Class name -> label, 1 to K."""
        return {name: label for label, name in enumerate(self.class_names, start=1)}

    def label_named(self, name: str) -> tuple[int, str]:
        """Return the label of a class that a file names, and why it is left out if it is; ValueError if unknown."""
        if name in self.ignore:
            return 0, f"class {name!r}, which is ignored"
        label = self.label_of.get(name)
        if label is None:
            hint = nearest(name, self.class_names)
            raise ValueError(
                f"has the class {name!r}, which the data set does not name; {hint}{'' if hint.endswith('?') else '.'} "
                f"To leave it out: ignore: [{name}]"
            )
        return label, ""

    def read(self, split: str, base: Path, masks: bool) -> Found:
        """Return what the files of a split below ``base`` hold, with masks of the objects if asked for.

        Raises:
            SegkdError: a file that all depends on is missing or broken. What is wrong with single ones is listed.
        """
        raise NotImplementedError

    def find(self, split: str, base: Path, masks: bool) -> AnnotatedSamples:
        """Return the images below ``base`` with their objects, and with these objects' masks if asked for."""
        if masks and not self.has_masks:
            raise SegkdError(
                f"data set {self.name!r} has format {self.format!r}, which has no masks, as Mask R-CNN needs"
            )
        try:
            found = self.read(split, base, masks)
        except SegkdError as error:
            found = Found(problems=[str(error)])
        samples = self.made_of(self, split, found, masks)
        unseen = [name for name, label in self.label_of.items() if label not in samples.objects.labels]
        # Of masks the pixels are counted: a class may have them without a box, as the one of ``rest`` does.
        boxless = unseen and len(samples) and self.holds == BoxSpec.holds
        lines = [f"{classes_have(unseen)} no box"] if boxless else []
        lines += [
            f"ignore names the class {name!r}, which the annotations do not have; {nearest(name, sorted(found.names))}"
            for name in self.ignore
            if found.names and name not in found.names
        ]
        samples.remarks += [f"{self.name} {split}: {line}" for line in lines + samples.repeated()]
        return samples


class BoxSamples(AnnotatedSamples):
    """Images with `segkd.data.annotations.Objects` each."""

    noun = "boxes"

    def label(self, index: int) -> Objects:
        """Return the objects of one image."""
        objects = self.of(index)
        return objects._replace(masks=self.masks(index)) if self.with_masks else objects

    def nothing(self, size: tuple[int, int]) -> Objects:
        """Return no objects."""
        none = self.objects.select(slice(0))
        return none._replace(masks=np.zeros((0, *size), dtype=np.uint8)) if self.with_masks else none

    def align(self, index: int, photo: Photo, label: Objects) -> Objects:
        """Return the objects upright as their image is, see `AnnotatedSamples.turn`."""
        tag = self.turn(index, photo)
        if tag == UPRIGHT:
            return label
        height, width = self.sizes[index].tolist()
        masks = label.masks
        if masks is not None:
            masks = upright(masks.transpose(1, 2, 0), tag).transpose(2, 0, 1)
        return label._replace(boxes=upright_boxes(label.boxes, tag, (height, width)), masks=masks)

    def heading(self) -> str:
        """Say how many images there are, and how many of them have no boxes."""
        return f"{len(self)} images, {sum(not len(self.of(index).labels) for index in range(len(self)))} without boxes"

    def tally(self, looks: Sequence[Look]) -> tuple[dict[str, Any], list[str], list[str]]:
        """Return how many boxes each class has, and how many are crowds or difficult."""
        objects = self.objects
        boxes = np.bincount(objects.labels, minlength=self.spec.num_classes + 1)[1:].tolist()
        counts = dict(zip(self.spec.class_names, boxes, strict=True))
        for name, flags in (("(crowd)", objects.crowd), ("(difficult)", objects.difficult)):
            counts |= {name: int(flags.sum())} if flags.any() else {}
        return counts, [], []

    def told(self, indices: Sequence[int]) -> list[str]:
        """Return how many boxes are left out, and why."""
        return [
            f"{len(lines)} {'box' if len(lines) == 1 else 'boxes'} of {self.split} left out: {reason}"
            for reason, lines in self.dropped.items()
        ]


class BoxSpec(AnnotatedSpec):
    """A data set of boxes; labels are 1 to K in the order of ``classes``, 0 is background."""

    holds = "boxes for detection"
    made_of = BoxSamples


class PerImageSplit(AnnotatedSplit):
    """Where the images and annotations of one split lie, relative to the root.

    ``images`` and ``annotations`` hold one ``*`` each, which stands for the same stem in both (``JPEGImages/*.jpg``,
    ``Annotations/*.xml``); a suffix may be one of several, ``*.{jpg,png}``, and upper and lower case are the same in
    it. Without a ``list`` every file that matches ``annotations`` belongs to the split; where ``background`` is true,
    every image does, and one without a file of annotations has no objects.
    """

    background: bool = False


class PerImageSpec(BoxSpec):
    """A data set of boxes of which each image has a file of its own."""

    splits: dict[str, PerImageSplit] = Field(min_length=1)  # type: ignore[assignment]

    def read_file(self, path: Path, image: Path, place: int, names: set[str]) -> tuple[tuple[int, int], list[Box]]:
        """Return height and width of an image, number ``place`` of the split, and its boxes, read of the file ``path``.

        The names of their classes are added to ``names``. A SegkdError names a file that cannot be read.
        """
        raise NotImplementedError

    def read(self, split: str, base: Path, masks: bool = False) -> Found:
        """Return what the files of one split hold, see `AnnotatedSpec.read`."""
        part, label = self.splits[split], f"{self.name} {split}"
        images, annotations = Pattern(part.images), Pattern(part.annotations)
        there, files = images.files(base), annotations.files(base)
        kind, known = (part.images, there) if part.background else (part.annotations, files)
        stems = [key[0] for key in known.found] if part.list is None else read_stems(base / part.list)
        if not stems:
            raise SegkdError(f"{label}: no image in {base / kind}")
        found = Found()
        for stem in stems:
            try:
                image = _locate(label, images, there, stem, base)
                path = _locate(label, annotations, Matches(files.found, {}), stem, base)
                check_regular(path, "annotation")
                if path.exists():
                    size, boxes = self.read_file(path, image, len(found.images), found.names)
                elif part.background:
                    size, boxes = image_size(image), []
                else:
                    raise SegkdError(f"no annotation {path} of image {image}")
            except SegkdError as error:
                found.problems.append(str(error))
                continue
            found.images.append(image)
            found.sizes.append(size)
            found.boxes += boxes
        if part.list is None and not part.background:
            others = {(s.images, s.annotations) for s in self.splits.values()} - {(part.images, part.annotations)}
            lone = unclaimed(dict(sorted({**there.beside, **there.found}.items())), files.found, others, base)
            for bare, file in list(lone.items())[:1]:
                found.remarks.append(
                    f"{label}: images without an annotation, left out: {len(lone)}, such as {base / file}, whose "
                    f"annotation would be {annotations.fill(bare, base)}"
                )
        return found


def _locate(label: str, pattern: Pattern, files: Matches, stem: str, base: Path) -> Path:
    """Return the file of a stem, there or not; raise a SegkdError where there are two, or one with another suffix."""
    found, beside = (part.get((stem,), []) for part in files)
    if len(found) > 1:
        both = " and ".join(str(base / file) for file in found)
        raise SegkdError(f"{label}: {both} differ in their suffix only: keep one of them")
    if beside and not found:
        raise SegkdError(f"{label}: {base / beside[0]} does not fit {pattern.text}{pattern.advice(beside)}")
    return base / found[0] if found else pattern.fill((stem,), base)


def image_size(image: Path) -> tuple[int, int]:
    """Return the height and width of an image when it is upright, without its pixels; a SegkdError if it is none."""
    with opening(image, "image") as opened:
        return upright_size(opened)
