"""The images of one split with their labels: what is read of each, and what looking at all of them brings to light."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from rich.console import Console

from segkd.common.orientation import UPRIGHT, upright
from segkd.common.paths import same_name
from segkd.common.progress import shown
from segkd.common.reading import COLOUR_MODES, Photo, open_image, read_photo
from segkd.data.patterns import Pattern
from segkd.errors import SegkdError

if TYPE_CHECKING:
    from segkd.data.description import DatasetSpec, SplitSpec

Item = TypeVar("Item")
Result = TypeVar("Result")

SHOWN = 5
"""How many of the objects that are left out for one reason a report lists."""


class Sample(NamedTuple):
    """An image with its label, both upright.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        label: an array (H, W) with a value for each pixel, or `segkd.data.boxes.Objects`.
    """

    image: np.ndarray
    label: Any


class Look(NamedTuple):
    """What looking at one sample brings to light.

    Attributes:
        size: height and width of the image, where it can be read.
        count: of its label, what the format counts.
        problems: one line for each thing that is wrong.
        turned: whether an orientation tag has turned the image,
        along: and its label with it.
        converted: what was lost in making the image 8-bit RGB.
    """

    size: tuple[int, int] | None
    count: Any
    problems: list[str]
    turned: bool
    along: bool
    converted: list[str]


@dataclass(frozen=True)
class SplitReport:
    """What one split holds.

    Attributes:
        split: its name.
        images: how many images it has.
        heading: that in words.
        sizes: (height, width) of the images -> how many have it.
        counts: what is counted of the labels: of each class its share of all pixels in %, or how many boxes it has;
            what counts for nothing stands in brackets.
        dropped: reason -> one line for each object left out, with its path. Training goes on without them, so that
            they are no problems.
        problems: one line for each thing that is wrong, with its path.
        remarks: one line for each thing that a person should know.
        turned: how many images an orientation tag has turned upright, and what with them; empty where none.
        absent: the split is optional and there is nothing of it on disk.
    """

    split: str
    images: int = 0
    heading: str = ""
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    counts: dict[str, Any] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    turned: str = ""
    absent: bool = False

    def lines(self) -> list[str]:
        """Return what the report says of the split; of objects left out, the first few of each reason."""
        lines = [f"  {self.split}: {self.heading}; {sizes_text(self.sizes)}"]
        for name, count in self.counts.items():
            lines.append(f"    {name:<20} {count:8d}" if isinstance(count, int) else f"    {name:<20} {count:6.2f} %")
        for reason, places in self.dropped.items():
            lines.append(f"    left out, {reason}: {len(places)}")
            lines += [f"      {place}" for place in places[:SHOWN]]
            lines += [f"      ... and {len(places) - SHOWN} more"] if len(places) > SHOWN else []
        lines += [f"    {remark}" for remark in self.remarks]
        return [*lines, f"    turned upright by their orientation tag: {self.turned}"] if self.turned else lines


class Samples(ABC):
    """The images of one split with their labels, as far as they are whole; each kind of label has its own.

    Args:
        spec: the data set.
        split: which split of it.
        images: path of each image.

    Attributes:
        problems: one line for each thing that is wrong with the split's files.
        remarks: one line for each thing that a person should know of them.
        dropped: reason -> one line for each object that is left out for it.
        seconds: of each image what a teacher sees instead of it, where the split says so.
    """

    noun: ClassVar[str]
    """What the labels are called, such as masks."""

    def __init__(self, spec: "DatasetSpec", split: str, images: list[Path]) -> None:
        self.spec, self.split, self.images = spec, split, images
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self.dropped: dict[str, list[str]] = {}
        self.seconds: list[Path] = []

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    @abstractmethod
    def label(self, index: int) -> Any:
        """Return one image's label as its file has it, without looking at the image.

        Raises:
            SegkdError: it cannot be read; the file is named.
        """

    @abstractmethod
    def align(self, index: int, photo: Photo, label: Any) -> Any:
        """Return a label in the size of its image, which was turned by its orientation tag; itself where it fits.

        Raises:
            SegkdError: the two differ in size either way.
        """

    def read(self, index: int) -> Sample:
        """Read an image with its label.

        Raises:
            SegkdError: one of them cannot be read, or they differ in size; the file is named.
        """
        photo = read_photo(self.images[index], self.spec.max_pixels)
        return Sample(photo.pixels, self.align(index, photo, self.label(index)))

    def add_seconds(self, part: "SplitSpec", base: Path) -> None:
        """Find what a teacher sees instead of each image; what lacks is a problem.

        Args:
            part: where the split's files lie,
            base: below this.
        """
        pattern, images = Pattern(part.images_teacher or ""), Pattern(part.images)
        files = pattern.files(base)
        for image in self.images:
            file = image.relative_to(base).as_posix()
            key = images.key(file) if "*" in part.images else (same_name(image.stem),)
            found = files.found.get(key, []) if key else []
            self.seconds.append(base / found[0] if found else pattern.fill(key or (image.stem,), base))
            if not found:
                advice = pattern.advice(files.beside.get(key or (), []))
                self.problems.append(
                    f"{self.spec.name} {self.split}: image {image} has no second input {self.seconds[-1]}{advice}"
                )

    def second(self, index: int, size: tuple[int, ...]) -> np.ndarray | None:
        """Read what a teacher sees instead of an image; None where it sees the same.

        Args:
            index: which.
            size: height and width of the image.

        Returns:
            float32 (H, W, C) in [0, 1]: RGB, or of grey, 8 or 16 bits, one channel.

        Raises:
            SegkdError: it cannot be read, or has another size; both files are named.
        """
        if not self.seconds:
            return None
        path = self.seconds[index]
        opened = open_image(path, "second input", self.spec.max_pixels)
        image = opened.image
        if image.mode in ("L", "1") or image.mode.startswith("I"):
            pixels = np.asarray(image.convert("L") if image.mode == "1" else image)[..., None]
            pixels = pixels.astype(np.float32) / (255 if image.mode in ("L", "1") else 65535)
        elif image.mode in COLOUR_MODES:
            pixels = np.asarray(image.convert("RGB")).astype(np.float32) / 255
        else:
            raise SegkdError(f"second input {path} has mode {image.mode!r}; expected RGB, or grey of 8 or 16 bits")
        pixels = upright(pixels, opened.left)
        if pixels.shape[:2] != size[:2]:
            raise SegkdError(
                f"second input {path} is {pixels.shape[1]}x{pixels.shape[0]}, but image {self.images[index]} is "
                f"{size[1]}x{size[0]} (width x height)"
            )
        return pixels

    @abstractmethod
    def nothing(self, size: tuple[int, int]) -> Any:
        """Return the label of an image (height, width) that has none."""

    def count(self, label: Any) -> Any:
        """Return what is counted of a label; nothing where that is known without reading the images."""
        return None

    def look(self, index: int) -> Look:
        """Read an image with its label, and say all that is wrong."""
        photo = label = None
        problems = []
        along = False
        try:
            photo = read_photo(self.images[index], self.spec.max_pixels)
        except SegkdError as error:
            problems.append(str(error))
        try:
            label = self.label(index)
            if photo is not None:
                along = self.align(index, photo, label) is not label
        except SegkdError as error:
            problems.append(str(error))
        if photo is not None:
            try:
                self.second(index, photo.pixels.shape)
            except SegkdError as error:
                problems.append(str(error))
        count = None if label is None else self.count(label)
        if photo is None:
            return Look(None, count, problems, False, False, [])
        height, width = photo.pixels.shape[:2]
        return Look((height, width), count, problems, photo.tag != UPRIGHT, along, photo.converted)

    @abstractmethod
    def heading(self) -> str:
        """Say how many samples there are."""

    @abstractmethod
    def tally(self, looks: Sequence[Look]) -> tuple[dict[str, Any], list[str], list[str]]:
        """Return what is counted in all samples, see `SplitReport`; and problems and remarks that follow from it."""

    @abstractmethod
    def told(self, indices: Sequence[int]) -> list[str]:
        """Return what a person should know of the labels at ``indices`` before training on them.

        Raises:
            SegkdError: nothing can be learnt from them.
        """


def sizes_text(sizes: Mapping[tuple[int, int], int]) -> str:
    """Say which sizes are common, from (height, width) of the images -> how many have it."""
    common = sorted(sizes.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{width}x{height} ({count})" for (height, width), count in common[:4])
    more = f" and {len(common) - 4} other sizes" if len(common) > 4 else ""
    return f"width x height {listed or 'unknown'}{more}"


def classes_have(names: Sequence[str], most: int = 5) -> str:
    """Return ``class 'a' has``, or ``classes 'a', 'b' and 3 more have``, for one or more names."""
    listed = ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
    return f"class {listed} has" if len(names) == 1 else f"classes {listed} have"


def read_all(
    read: Callable[[Item], Result], items: Sequence[Item], name: str = "reading", console: Console | None = None
) -> Iterator[Result]:
    """Yield what ``read`` makes of each item, in order: in threads, as decoding an image lets others run.

    Args:
        read: called with each item.
        items: what is read.
        name: what they are called where progress is shown.
        console: see `shown`.
    """
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from shown(pool.map(read, items), len(items), name, console)


def spread(items: list[Item], limit: int | None) -> list[Item]:
    """Return ``limit`` of the items, evenly spread and in their order; all of them when there are no more, or None."""
    if limit is None or limit >= len(items):
        return items
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, limit).round()]
