"""Run every row of a file of reference figures through the package's public classes, and say which differ.

``python -m tests.reference FILE.json...``: exit status 1 if a row differs. What a row's name means is one file of
``cases``, whose ``figures(row)`` computes them.
"""

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .row import Row

RELATIVE = 1e-6
ABSOLUTE = 1e-8  # where a figure is 0
ZERO = 1e-12  # what is below this is 0, but for rounding


def read(path: Path) -> list[Row]:
    """Return the rows of a file: a list of them, or for the older detection figures an object of them by name."""
    content = json.loads(path.read_text())
    if isinstance(content, dict):
        content = [{"name": name, "params": {}, "figures": {"all": figures}} for name, figures in content.items()]
    return [Row(raw) for raw in content]


def errors(expected: Any, found: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Yield of each figure where it stands and its relative error: infinite where it is absent or of another kind."""
    if expected is None:
        return
    if isinstance(expected, dict):
        for key, value in expected.items():
            inner = found.get(key) if isinstance(found, dict) else None
            yield from errors(value, inner, f"{place}.{key}" if place else key)
    elif isinstance(expected, list):
        if not isinstance(found, list | tuple) or len(found) != len(expected):
            yield place, math.inf
            return
        for index, value in enumerate(expected):
            yield from errors(value, found[index], f"{place}[{index}]")
    elif isinstance(found, dict | list | tuple | None):
        yield place, math.inf
    elif isinstance(expected, bool | str):
        yield place, 0.0 if expected == found else math.inf
    elif abs(expected) < ZERO:
        yield place, 0.0 if abs(found) <= ABSOLUTE else math.inf
    elif isinstance(expected, int):
        yield place, 0.0 if expected == found else math.inf
    else:
        yield place, abs(found - expected) / abs(expected) if math.isfinite(found) else math.inf


def differences(row: Row) -> tuple[float, list[str]]:
    """Return the worst relative error of a row, and what of it is not within its tolerance."""
    try:
        case = importlib.import_module(f".cases.{row.name}", __package__)
    except ModuleNotFoundError as error:
        return math.inf, [f"{error}"]
    tolerance = getattr(case, "tolerance", lambda row: RELATIVE)(row)
    found = list(errors(row.expected, case.figures(row)))
    return max((error for _, error in found), default=math.inf), [
        f"{place} {error:.1e}" for place, error in found if error > tolerance
    ]


def main(paths: list[str]) -> int:
    """Print of each file how many rows match, the worst error and the rows that differ."""
    torch.set_num_threads(1)
    status = 0
    for path in map(Path, paths):
        rows, matched, worst = read(path), 0, 0.0
        for number, row in enumerate(rows):
            try:
                error, differing = differences(row)
            except Exception as failure:  # one row that cannot be computed does not hide the others
                error, differing = math.inf, [f"{type(failure).__name__}: {failure}"]
            if differing:
                print(f"{path.name} row {number}, {row.name} {row.params}: {'; '.join(differing)}")
            else:
                matched, worst = matched + 1, max(worst, error)
        print(f"{path.name}: {matched} of {len(rows)} rows match, worst relative error {worst:.1e}")
        status |= matched < len(rows)
    return status


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python -m tests.reference FILE.json...")
    sys.exit(main(sys.argv[1:]))
