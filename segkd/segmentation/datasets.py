"""What a data set is: one YAML that says where images and masks lie, which classes there are, and what raw ids mean."""

import glob
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from segkd.common.paths import on_disk, same_name
from segkd.common.reading import read_stems, refuse
from segkd.common.specs import BaseSpec, Byte, ClassSpec, read_spec
from segkd.errors import SegkdError
from segkd.segmentation.streets import Drawing, ensure_streets

INVALID = -1


class Pair(NamedTuple):
    """One image and the mask that belongs to it."""

    image: Path
    mask: Path


class SplitSpec(BaseModel):
    """Where the files of one split lie, relative to the root.

    ``*`` is the only wildcard and stays within one path component. The text that the wildcards match in the image's
    path, put into the wildcards of ``masks``, gives the mask's path. ``list`` names a file of stems, one a line: only
    images whose last wildcard matched a listed stem belong to the split. An ``optional`` split may be absent from
    disk without ``segkd data check`` calling that a problem.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    images: str
    masks: str
    list: str | None = None
    optional: bool = False

    @field_validator("images", "masks")
    @classmethod
    def _one_kind_of_wildcard(cls, pattern: str) -> str:
        if "*" not in pattern or "**" in pattern or re.search(r"[?\[\]]", pattern):
            raise ValueError(f"{pattern!r} must hold at least one *, the only wildcard understood (no **, ? or [])")
        return pattern

    @model_validator(mode="after")
    def _as_many_wildcards(self) -> "SplitSpec":
        if self.images.count("*") != self.masks.count("*"):
            raise ValueError(
                f"images {self.images!r} and masks {self.masks!r} must have the same number of *, "
                "since what they match pairs image and mask"
            )
        return self


class DatasetSpec(BaseSpec):
    """A data set as its YAML describes it; masks arrive as class ids in the order of ``classes``.

    Attributes:
        splits: the files of each split.
        classes: the classes in train-id order; ``ignore_index`` is none of them.
        ignore_index: the id (0 to 255) of pixels that count for nothing.
        label_map: raw id in the mask file -> class id or ``"ignore"``. A raw id outside the map is an error. Without
            a map raw ids are class ids, and anything but a class id or ``ignore_index`` is an error.
        generator: ``"streets"`` when the data set is drawn on first use instead of downloaded.
        drawing: how many scenes the generator draws, how large and from which seed.
    """

    parts: ClassVar[dict[str, type[BaseModel]]] = {"splits": SplitSpec, "classes": ClassSpec, "drawing": Drawing}

    splits: dict[str, SplitSpec] = Field(min_length=1)
    classes: list[ClassSpec] = Field(min_length=1, max_length=255)
    ignore_index: Byte = 255
    label_map: dict[Byte, Byte | Literal["ignore"]] | None = None
    generator: Literal["streets"] | None = None
    drawing: Drawing | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_masks(cls, content: Any) -> Any:
        if isinstance(content, dict) and "format" in content:
            raise ValueError("its key 'format' says that it holds boxes for detection, not masks for segmentation")
        return content

    @model_validator(mode="after")
    def _consistent(self) -> "DatasetSpec":
        count = len(self.classes)
        if self.ignore_index < count:
            raise ValueError(f"ignore_index {self.ignore_index} is also a class id: use one from {count} to 255")
        for raw, target in (self.label_map or {}).items():
            if target != "ignore" and target >= count:
                raise ValueError(f"label_map sends raw id {raw} to class {target}, but class ids end at {count - 1}")
        if (self.generator is None) != (self.drawing is None):
            raise ValueError("generator and drawing go together: give both or neither")
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

    def resolve_root(self, root: str | os.PathLike[str] | None = None) -> Path:
        """Where the data lie: ``root`` or the spec's own, else ``$SEGKD_DATA/<name>``, else ``datasets/<name>``.

        A drawn data set that is not in ``$SEGKD_DATA`` goes to ``datasets/<name>``: data of one's own may be read-only.
        """
        own = Path("datasets") / self.name
        there = super().resolve_root(root)
        return own if self.generator and not (root or self.root or there.is_dir()) else there

    def pairs(self, split: str, root: str | os.PathLike[str] | None = None) -> list[Pair]:
        """Return the image-mask pairs of a split, sorted; a generated data set is drawn first if it is not there.

        Raises:
            SegkdError: unknown split, missing root, a split without images, an image without mask, a listed stem
                without image.
        """
        found, problems = self.scan(split, root)
        refuse(problems)
        return found

    def scan(self, split: str, root: str | os.PathLike[str] | None = None) -> tuple[list[Pair], list[str]]:
        """Like :meth:`pairs`, but return every pair that is whole together with one line for each that is not.

        Raises:
            SegkdError: unknown split, missing root.
        """
        self.check_split(split)
        if self.generator and self.drawing:
            ensure_streets(self.resolve_root(root), self.drawing)
        base = self.existing_root(root)
        return _match(f"{self.name} {split}", self.splits[split], base)

    def is_there(self, split: str, root: str | os.PathLike[str] | None = None) -> bool:
        """Whether anything of a split is on disk: its list if it has one, else at least one image."""
        part, base = self.splits[split], self.resolve_root(root)
        if part.list is not None:
            return (base / part.list).is_file()
        return any(True for _ in glob.iglob(part.images, root_dir=base))


def load_dataset_spec(name_or_path: str | os.PathLike[str]) -> DatasetSpec:
    """Read a shipped data set by name (``"camvid"``) or the user's own YAML by path; see `read_spec`."""
    return read_spec(DatasetSpec, name_or_path)


def _match(label: str, split: SplitSpec, root: Path) -> tuple[list[Pair], list[str]]:
    pattern = re.compile("([^/]*)".join(re.escape(part) for part in split.images.split("*")))
    # glob, unlike Path.glob, leaves out hidden files such as the ._* that macOS archives bring along.
    images: dict[str, tuple[str, ...]] = {}
    for file in sorted(glob.glob(split.images, root_dir=root)):
        match = pattern.fullmatch(file.replace(os.sep, "/"))
        if match:
            images[file] = match.groups()
    problems = []
    if split.list is not None:
        listing = root / split.list
        try:
            stems = dict.fromkeys(read_stems(listing))
        except SegkdError as error:
            return [], [f"{label}: {error}"]
        images = {file: groups for file, groups in images.items() if same_name(groups[-1]) in stems}
        there = {same_name(groups[-1]) for groups in images.values()}
        problems = [
            f"{label}: {listing} lists {stem!r}, but no image matches {split.images}"
            for stem in stems
            if stem not in there
        ]
    if not images and not problems:
        return [], [f"{label}: no image matches {root / split.images}"]
    pairs = []
    parts = split.masks.split("*")
    for file, groups in images.items():
        mask = on_disk(root / "".join(part + text for part, text in zip(parts, (*groups, ""), strict=True)))
        if mask.is_file():
            pairs.append(Pair(root / file, mask))
        else:
            problems.append(f"{label}: image {root / file} has no mask {mask}")
    return pairs, problems
