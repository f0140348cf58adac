"""What a data set is: one YAML that says where images and masks lie, which classes there are, and what raw ids mean."""

import os
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from segkd.common.reading import refuse
from segkd.data.description import BaseSpec, Byte, ClassSpec, Color, read_spec
from segkd.data.patterns import Pattern
from segkd.data.splits import Files, Pair, SplitSpec, match_files
from segkd.data.streets import Drawing, ensure_streets

INVALID = -1


class DatasetSpec(BaseSpec):
    """A data set as its YAML describes it; masks arrive as class ids in the order of ``classes``.

    Attributes:
        splits: the files of each split.
        classes: the classes in train-id order; ``ignore_index`` is none of them.
        ignore_index: the id (0 to 255) of pixels that count for nothing.
        masks: what mask files hold: ``"ids"``, or ``"colors"``, each class in its own; None takes files of RGB for
            colours, those of one channel or with a palette for ids.
        ignore_colors: RGB of pixels that count for nothing, in masks of colours.
        label_map: raw id in the mask file -> class id or ``"ignore"``. A raw id outside the map is an error. Without
            a map raw ids are class ids, and anything but a class id or ``ignore_index`` is an error.
        generator: ``"streets"`` when the data set is drawn on first use instead of downloaded.
        drawing: how many scenes the generator draws, how large and from which seed.
    """

    parts: ClassVar[dict[str, type[BaseModel]]] = {"splits": SplitSpec, "classes": ClassSpec, "drawing": Drawing}

    splits: dict[str, SplitSpec] = Field(min_length=1)
    classes: list[ClassSpec] = Field(min_length=1, max_length=255)
    ignore_index: Byte = 255
    masks: Literal["ids", "colors"] | None = None
    ignore_colors: list[Color] = Field(default=[], max_length=255)
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
        if count < 2:
            raise ValueError(
                f"one class alone, {self.class_names[0]!r}, makes every pixel right (mIoU 100 from the first step): "
                "name the rest of the image as a class too, such as background"
            )
        if self.ignore_index < count:
            raise ValueError(f"ignore_index {self.ignore_index} is also a class id: use one from {count} to 255")
        for raw, target in (self.label_map or {}).items():
            if target != "ignore" and target >= count:
                raise ValueError(f"label_map sends raw id {raw} to class {target}, but class ids end at {count - 1}")
        if self.masks == "colors" and self.shared_color:
            raise ValueError(f"masks: colors, but {self.shared_color}")
        if self.masks == "colors" and self.label_map is not None:
            raise ValueError("label_map is of ids, and masks: colors has none: leave one of them out")
        for color in set(self.ignore_colors) & set(self.colors):
            raise ValueError(f"ignore_colors has {list(color)}, the colour of class {self._of_color(color)[0]!r}")
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

    @cached_property
    def color_lookup(self) -> np.ndarray:
        """Table (2**24,) int16 from colour, as red * 2**16 + green * 2**8 + blue, to what `lookup` gives for an id."""
        table = np.full(1 << 24, INVALID, dtype=np.int16)
        ids = [*range(self.num_classes), *[self.ignore_index] * len(self.ignore_colors)]
        for (red, green, blue), target in zip([*self.colors, *self.ignore_colors], ids, strict=True):
            table[red << 16 | green << 8 | blue] = target
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
            SegkdError: unknown split, missing root, a split without images, an image without mask or with two, a listed
                stem without image, an image with a mask that is left out for its suffix.
        """
        found = self.scan(split, root)
        refuse(found.problems)
        return found.pairs

    def scan(self, split: str, root: str | os.PathLike[str] | None = None) -> Files:
        """Like :meth:`pairs`, but return every pair that is whole together with what is wrong with the others.

        Raises:
            SegkdError: unknown split, missing root.
        """
        self.check_split(split)
        if self.generator and self.drawing:
            ensure_streets(self.resolve_root(root), self.drawing)
        base = self.existing_root(root)
        return match_files(f"{self.name} {split}", self.splits, split, base)

    def is_there(self, split: str, root: str | os.PathLike[str] | None = None) -> bool:
        """Whether anything of a split is on disk: its list if it has one, else at least one image, of any suffix."""
        part, base = self.splits[split], self.resolve_root(root)
        if part.list is not None:
            return (base / part.list).is_file()
        return any(Pattern(part.images).files(base))


def load_dataset_spec(name_or_path: str | os.PathLike[str]) -> DatasetSpec:
    """Read a shipped data set by name (``"camvid"``) or the user's own YAML by path; see `read_spec`."""
    return read_spec(DatasetSpec, name_or_path)
