"""What looking at a data set brings to light: a report of its splits, and which samples a contact sheet shows."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from rich.console import Console

from segkd.common.progress import shown
from segkd.errors import SegkdError

Item = TypeVar("Item")
Result = TypeVar("Result")

SHOWN = 20
"""How many problems a report lists; of the others it says how many there are."""


class SplitReport(Protocol):
    """What one split holds; each task has its own."""

    @property
    def split(self) -> str:
        """Its name."""

    @property
    def absent(self) -> bool:
        """The split is optional and there is nothing of it on disk."""

    @property
    def problems(self) -> list[str]:
        """One line for each thing that is wrong, with its path."""

    def lines(self) -> list[str]:
        """What the report says of the split; nothing where it is absent."""


@dataclass(frozen=True)
class DatasetReport:
    """What a data set holds; as text, a table of it with the first problems below.

    Attributes:
        name: the data set.
        root: where it was looked for.
        splits: a report for each split.
    """

    name: str
    root: Path
    splits: Sequence[SplitReport]

    @property
    def problems(self) -> list[str]:
        """The problems of all splits."""
        return [problem for report in self.splits for problem in report.problems]

    def __str__(self) -> str:
        lines = [f"{self.name} in {self.root}"]
        for report in self.splits:
            lines += [f"  {report.split}: not there (optional)"] if report.absent else report.lines()
        lines.append(f"  {len(self.problems)} problem(s)")
        lines += [f"    {problem}" for problem in self.problems[:SHOWN]]
        more = len(self.problems) - SHOWN
        return "\n".join([*lines, *([f"    ... and {more} more"] if more > 0 else [])])


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


def turned_lines(turned: int, labels: str) -> list[str]:
    """Say how many images an orientation tag has turned, and which ``labels`` with them; nothing of none."""
    return [f"    turned upright by their orientation tag: {turned} images, and {labels} with them"] if turned else []


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


def choose(total: int, count: int, seed: int) -> list[int]:
    """Return the indices of ``count`` samples out of ``total``, drawn without repetition.

    Raises:
        SegkdError: a count below 1.
    """
    if count < 1:
        raise SegkdError(f"a contact sheet shows at least 1 sample, got count={count}")
    return np.random.default_rng(seed).permutation(total)[:count].tolist()
