"""The images of one split with their labels: what is read of each, and what looking at all of them brings to light."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from rich.console import Console

from segkd.common.orientation import UPRIGHT, upright
from segkd.common.paths import same_name
from segkd.common.progress import shown
from segkd.common.reading import COLOUR_MODES, Photo, open_image, opening, read_photo
from segkd.data.patterns import Pattern
from segkd.errors import SegkdError

if TYPE_CHECKING:
    from segkd.data.description import DatasetSpec, SplitSpec

Item = TypeVar("Item")
Result = TypeVar("Result")


class Sample(NamedTuple):
    """An image, uint8 (H, W, 3) RGB, with its label, both upright; see `Samples` for what a label is."""

    image: np.ndarray
    label: Any


class Look(NamedTuple):
    """What looking at one sample brings to light."""

    size: tuple[int, int] | None  # height and width of the image, where it can be read
    count: Any  # of its label, what the format counts
    problems: list[str]  # one line for each thing that is wrong
    turned: bool  # whether an orientation tag has turned the image
    along: bool  # and its label with it
    converted: list[str]  # what was lost in making the image 8-bit RGB


class Samples(ABC):
    """The images of one split with their labels, as far as they are whole; each kind of label has its own.

    A label is an array (H, W) with a value for each pixel, or `segkd.data.annotations.Objects`.

    Attributes:
        problems: one line for each thing that is wrong with the split's files.
        remarks: one line for each thing that a person should know of them.
        dropped: reason -> one line for each object that is left out for it.
        seconds: of each image what a teacher sees instead of it, where the split says so.
        chosen: places of the images that are meant; all, but in a part of a split.
    """

    noun: ClassVar[str]  # what the labels are called, such as masks

    def __init__(self, spec: "DatasetSpec", split: str, images: list[Path]) -> None:
        self.spec, self.split, self.images = spec, split, images
        self.chosen = list(range(len(images)))
        self.problems: list[str] = []
        self.remarks: list[str] = []
        self.dropped: dict[str, list[str]] = {}
        self.seconds: list[Path] = []
        self._lacking: set[int] = set()  # of which images they are not there, which is among the problems

    def __len__(self) -> int:
        return len(self.images)

    # What each kind of label has of its own.

    @abstractmethod
    def label(self, index: int) -> Any:
        """Return one image's label as its file has it, without looking at the image; a SegkdError names a bad file."""

    @abstractmethod
    def align(self, index: int, photo: Photo, label: Any) -> Any:
        """Return a label as its image lies, which its orientation tag has turned; itself where it fits, or raise."""

    @abstractmethod
    def nothing(self, size: tuple[int, int]) -> Any:
        """Return the label of an image (height, width) that has none."""

    def count(self, label: Any) -> Any:
        """Return what is counted of a label; nothing where that is known without reading the images."""
        return None

    @abstractmethod
    def heading(self) -> str:
        """Say how many samples there are."""

    @abstractmethod
    def tally(self, looks: Sequence[Look]) -> tuple[dict[str, Any], list[str], list[str]]:
        """Return what is counted in all samples, see `SplitReport`; and problems and remarks that follow from it."""

    @abstractmethod
    def told(self, indices: Sequence[int]) -> list[str]:
        """Return what a person should know of the labels at ``indices``; raise if nothing can be learnt from them."""

    # What is the same in all.

    def read(self, index: int) -> Sample:
        """Read an image with its label; a SegkdError names the file that cannot be read or has another size."""
        photo = read_photo(self.images[index], self.spec.max_pixels)
        return Sample(photo.pixels, self.align(index, photo, self.label(index)))

    def add_seconds(self, part: "SplitSpec", base: Path) -> None:
        """Find below ``base`` what a teacher sees instead of each image of a split; what lacks is a problem."""
        pattern, images = Pattern(part.images_teacher or ""), Pattern(part.images)
        files = pattern.files(base)
        for index, image in enumerate(self.images):
            file = image.relative_to(base).as_posix()
            key = images.key(file) if "*" in part.images else (same_name(image.stem),)
            found = files.found.get(key, []) if key else []
            self.seconds.append(base / found[0] if found else pattern.fill(key or (image.stem,), base))
            if not found:
                self._lacking.add(index)
                advice = pattern.advice(files.beside.get(key or (), []))
                self.problems.append(
                    f"{self.spec.name} {self.split}: image {image} has no second input {self.seconds[-1]}{advice}"
                )

    def second(self, index: int, size: tuple[int, ...]) -> np.ndarray | None:
        """Read what a teacher sees instead of an image of ``size``, height and width; None where it sees the same.

        It is float32 (H, W, C) in [0, 1]: RGB, or of grey, 8 or 16 bits, one channel.
        """
        if not self.seconds:
            return None
        path = self.seconds[index]
        opened = open_image(path, "second input", self.spec.max_pixels)
        image = opened.image
        if image.mode == "1":
            image = image.convert("L")
        if image.mode == "L" or image.mode.startswith("I"):
            pixels = np.asarray(image)[..., None].astype(np.float32) / (255 if image.mode == "L" else 65535)
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

    def check_seconds(self, indices: Sequence[int]) -> None:
        """Raise where what a teacher sees is no image, or, by the headers of the files, of another size."""
        for index in indices if self.seconds else ():
            try:
                with opening(self.images[index], "image") as image, opening(self.seconds[index], "image") as second:
                    is_same = sorted(image.size) == sorted(second.size)  # a tag may turn either
            except SegkdError:
                is_same = False
            if not is_same:  # reading both says what it is
                self.second(index, self.read(index).image.shape)

    def look(self, index: int) -> Look:
        """Read an image with its label, and say all that is wrong."""
        problems: list[str] = []

        def attempt(read: Callable[..., Any], *given: Any) -> Any:
            try:
                return read(*given)
            except SegkdError as error:
                problems.append(str(error))

        photo = attempt(read_photo, self.images[index], self.spec.max_pixels)
        label = attempt(self.label, index)
        count = None if label is None else self.count(label)
        if photo is None:
            return Look(None, count, problems, False, False, [])
        aligned = None if label is None else attempt(self.align, index, photo, label)
        if index not in self._lacking:
            attempt(self.second, index, photo.pixels.shape)
        along = aligned is not None and aligned is not label
        return Look(photo.pixels.shape[:2], count, problems, photo.tag != UPRIGHT, along, photo.converted)


def classes_have(names: Sequence[str], most: int = 5) -> str:
    """Return ``class 'a' has``, or ``classes 'a', 'b' and 3 more have``, for one or more names."""
    listed = ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
    return f"class {listed} has" if len(names) == 1 else f"classes {listed} have"


def read_all(
    read: Callable[[Item], Result], items: Sequence[Item], name: str = "reading", console: Console | None = None
) -> Iterator[Result]:
    """Yield what ``read`` makes of each item, in order: in threads, as decoding an image lets others run."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from shown(pool.map(read, items), len(items), name, console)


def spread(items: list[Item], limit: int | None) -> list[Item]:
    """Return ``limit`` of the items, evenly spread and in their order; all of them when there are no more, or None."""
    if limit is None or limit >= len(items):
        return items
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, limit).round()]
