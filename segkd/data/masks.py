"""Data sets whose labels give each pixel a class; which mask belongs to which image, and which files nothing claims."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, field_validator, model_validator

from segkd.common.reading import read_stems
from segkd.data.description import Byte, ClassSpec, DatasetSpec, Root, SplitSpec
from segkd.data.patterns import Matches, Pattern, unclaimed
from segkd.data.samples import Look, Samples, classes_have, read_all, spread
from segkd.data.streets import Drawing, ensure_streets
from segkd.errors import SegkdError

#: How many masks training looks at before it starts; the second where a class is not in the first ones.
_LOOKS = (32, 256)


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

    ``ignore_index`` is the id of pixels that count for nothing. With a ``generator`` the data set is drawn on first use
    instead of downloaded, as ``drawing`` says.
    """

    holds = "masks for segmentation"

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

    def resolve_root(self, root: Root = None) -> Path:
        """As of any data set; but a drawn one that ``$SEGKD_DATA``, maybe read-only, lacks goes to ``datasets``."""
        there = super().resolve_root(root)
        drawn = self.generator and not (root or self.root or there.is_dir())
        return Path("datasets") / self.name if drawn else there

    def existing_root(self, root: Root = None) -> Path:
        """Return `resolve_root`; a generated data set is drawn first if it is not there."""
        if self.generator and self.drawing:
            ensure_streets(self.resolve_root(root), self.drawing)
        return super().existing_root(root)

    def missing(self, counts: np.ndarray, masks: str) -> str:
        """Say which classes have no pixel in ``masks``, such as "any of 3 masks", and what may be the cause, if any."""
        absent = np.flatnonzero(counts[: self.num_classes] == 0).tolist()
        if not absent:
            return ""
        text = f"{classes_have([self.class_names[number] for number in absent])} no pixel in {masks}"
        present = [name for number, name in enumerate(self.class_names) if number not in absent]
        if len(present) < 2:
            text += ": every pixel is " + (f"{present[0]!r} or ignored" if present else "ignored")
        return text + self.cause(counts, absent)

    def cause(self, counts: np.ndarray, absent: list[int]) -> str:
        """Say why classes, the ids ``absent``, may not occur, to go behind that; nothing where there is no telling."""
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

    def pixels(self, indices: Sequence[int]) -> np.ndarray:
        """Return the pixels of each class id, int64 (256,), in the masks at ``indices``."""
        counted = read_all(lambda index: self.count(self.label(index)), indices)
        return sum(counted, np.zeros(256, dtype=np.int64))

    def occurring(self, indices: Sequence[int]) -> tuple[np.ndarray, int]:
        """Return `pixels` of masks spread over ``indices``, few if they hold every class, and of how many these are."""
        counts = np.zeros(256, dtype=np.int64)
        looked: set[int] = set()
        for limit in _LOOKS:
            fresh = [index for index in spread(list(indices), limit) if index not in looked]
            counts += self.pixels(fresh)
            looked |= set(fresh)
            if counts[: self.spec.num_classes].all():
                break
        return counts, len(looked)

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
        absent, alone = self._absent(counts, f"any of {sum(bool(count.any()) for count in seen)} masks")
        said = absent if counts.any() else []  # else no mask could be read, which is said
        return (shares, said, []) if alone else (shares, [], said)

    def told(self, indices: Sequence[int]) -> list[str]:
        """Return which classes do not occur, as far as a look at some masks tells; one alone in all is an error."""
        counts, looked = self.occurring(indices)
        total = len(indices)
        masks = f"any of {total} masks" if looked == total else f"{looked} of {total} masks ('data check' reads all)"
        absent, alone = self._absent(counts, masks)
        if alone and looked == total:
            raise SegkdError(absent[0])
        return absent

    def _absent(self, counts: np.ndarray, masks: str) -> tuple[list[str], bool]:
        """Return a line if a class does not occur; and whether one is all that does, so that any model is right."""
        absent = self.spec.missing(counts, masks)
        alone = int(np.count_nonzero(counts[: self.spec.num_classes])) == 1
        return [f"{self.spec.name} {self.split}: {absent}"] if absent else [], alone


class Files(NamedTuple):
    """The files of a split, sorted by image."""

    pairs: list[Pair]
    problems: list[str]  # one line for each file that is in no pair and should be
    remarks: list[str]  # one line for each kind of file that is left out and may be


def match_files(label: str, splits: Mapping[str, PairSplit], name: str, root: Path) -> Files:
    """Find the files of the split ``name`` below ``root``; what it leaves out may be another's."""
    split = splits[name]
    images, masks = Pattern(split.images), Pattern(split.masks)
    there, labels = images.files(root), masks.files(root)
    if split.list is None:
        chosen = there.found
        problems, remarks = _left_out(label, splits, name, root, there, labels)
    else:
        listing = root / split.list
        try:
            stems = dict.fromkeys(read_stems(listing))
        except SegkdError as error:
            return Files([], [f"{label}: {error}"], [])
        chosen = {key: files for key, files in there.found.items() if key[-1] in stems}
        present = {key[-1] for key in chosen}
        others = {key[-1]: files for key, files in there.beside.items()}
        problems = [
            f"{label}: {listing} lists {stem!r}, but no image matches {split.images}{images.advice(others.get(stem))}"
            for stem in stems
            if stem not in present
        ]
        remarks = []
    if not chosen and not problems:
        problems = [f"{label}: no image matches {root / split.images}"]
    pairs = []
    for key, files in chosen.items():
        found = labels.found.get(key, [])
        mask = root / found[0] if found else masks.fill(key, root)
        twice = files if len(files) > 1 else found
        if len(twice) > 1:
            both = " and ".join(str(root / file) for file in twice)
            problems.append(f"{label}: {both} differ in their suffix only: keep one of them")
        elif mask.is_file():
            pairs.append(Pair(root / files[0], mask))
        else:
            beside = [file for file in labels.beside.get(key, []) if not images.key(file)]
            problems.append(f"{label}: image {root / files[0]} has no mask {mask}{masks.advice(beside)}")
    return Files(pairs, problems, remarks)


def _left_out(
    label: str, splits: Mapping[str, PairSplit], name: str, root: Path, there: Matches, labels: Matches
) -> tuple[list[str], list[str]]:
    """Return problems and remarks about images that have not the suffix, and about masks that have no image."""
    split, images = splits[name], Pattern(splits[name].images)
    known = [Pattern(text) for other in splits.values() for text in (other.images, other.masks)]
    unseen = {
        key: files[0]
        for key, files in there.beside.items()
        if key not in there.found and not any(pattern.key(files[0]) for pattern in known)
    }
    labelled = [file for key, file in unseen.items() if key in labels.found]
    problems = [
        f"{label}: image {root / file} has a mask and is left out, since splits.{name}.images is {split.images}"
        f"{images.advice(labelled)}"
        for file in labelled
    ]
    remarks = []
    bare = [file for key, file in unseen.items() if key not in labels.found]
    if bare:
        remarks.append(
            f"{label}: images of another suffix and without a mask, left out: {len(bare)}, such as {root / bare[0]}"
        )
    others = {(other.masks, other.images) for other in splits.values()} - {(split.masks, split.images)}
    lone = unclaimed(labels.found, {*there.found, *unseen}, others, root)
    if lone:
        key, file = next(iter(lone.items()))
        remarks.append(
            f"{label}: masks without an image, left out: {len(lone)}, such as {root / file}, whose image would be "
            f"{images.fill(key, root)}"
        )
    return problems, remarks
