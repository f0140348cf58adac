"""Images without labels, which are mixed into the batches of training."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from segkd.common.reading import read_photo
from segkd.data.description import DatasetSpec
from segkd.data.patterns import Pattern
from segkd.data.samples import SplitReport, read_all
from segkd.errors import SegkdError


def find_images(
    spec: DatasetSpec, patterns: str | Sequence[str], root: str | os.PathLike[str] | None = None
) -> list[Path]:
    """Return the images that patterns such as ``extra/*.jpg`` find, sorted, each once.

    Args:
        spec: the data set that they are added to.
        patterns: one or several, relative to where the data lie, or absolute.
        root: where the data lie, if not where the spec says.

    Raises:
        SegkdError: a pattern that none matches, or no pattern.
    """
    base = spec.existing_root(root)
    images: set[Path] = set()
    for text in [patterns] if isinstance(patterns, str) else patterns:
        try:
            pattern = Pattern(os.path.expanduser(text))
        except ValueError as error:
            raise SegkdError(f"data.unlabelled.images: {error}") from None
        files = pattern.files(base)
        found = {base / file for names in files.found.values() for file in names}
        if not found:
            beside = next(iter(files.beside.values()), None)
            raise SegkdError(f"data.unlabelled.images: no image matches {base / text}{pattern.advice(beside)}")
        images |= found
    return sorted(images)


def check_unlabelled(images: Sequence[Path], max_pixels: int, console: Console | None = None) -> SplitReport:
    """Read every image and report all that is wrong.

    Args:
        images: path of each.
        max_pixels: how many pixels one may have.
        console: where progress is shown if it is a terminal; None for nowhere.
    """
    sizes: dict[tuple[int, int], int] = {}
    problems = []
    for look in read_all(partial(_look, max_pixels=max_pixels), images, "unlabelled", console):
        if isinstance(look, str):
            problems.append(look)
        else:
            sizes[look] = sizes.get(look, 0) + 1
    return SplitReport("unlabelled", len(images), f"{len(images)} images", sizes, problems=problems)


def _look(path: Path, max_pixels: int) -> tuple[int, int] | str:
    """Return height and width of an image, or what is wrong with it."""
    try:
        height, width = read_photo(path, max_pixels).pixels.shape[:2]
    except SegkdError as error:
        return str(error)
    return height, width
