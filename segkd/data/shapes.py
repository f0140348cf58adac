"""Instance masks as COCO writes them: polygons, plain runs, and runs packed into a string."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = list[NDArray[np.float64]] | NDArray[np.int64]
"""What a mask is drawn from: polygons of (n, 2) x, y; or run lengths, column by column, the first of them outside."""


class NoArea(ValueError):
    """A shape that covers nothing, such as a line: its object has no mask, which is no fault of the file as a whole."""

    def __str__(self) -> str:
        return "no mask: polygons without area, or none"


def read_shape(segmentation: Any, size: tuple[int, int]) -> Shape:
    """Check the COCO ``segmentation`` of an image of ``size``, height and width, and turn it into arrays.

    That is a list of polygons ``[x1, y1, x2, y2, ...]``, of which those without an area are left out; or
    ``{"size": [h, w], "counts": ...}`` with run lengths as a list or packed into a string.

    Raises:
        NoArea: there is no polygon that has three points not all on one line; or run lengths that are all outside.
        ValueError: anything else; the message says what, to go behind the name of the annotation.
    """
    if isinstance(segmentation, list):
        polygons = [np.asarray(flat, dtype=np.float64) for flat in segmentation]
        for flat in polygons:
            if flat.ndim != 1 or (flat.size >= 6 and flat.size % 2) or not np.isfinite(flat).all():
                raise ValueError("a polygon that is no list of at least three x, y")
        with_area = [flat.reshape(-1, 2) for flat in polygons if _has_area(flat)]
        if not with_area:
            raise NoArea
        return with_area
    if isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        counts = segmentation["counts"]
        runs = np.asarray(unpack(counts) if isinstance(counts, str) else counts, dtype=np.int64)
        fills = runs.ndim == 1 and (runs >= 0).all() and runs.sum() == np.prod(size)
        if list(segmentation["size"]) != list(size) or not fills:
            raise ValueError(f"run lengths that do not fill the image of {size[1]}x{size[0]} (width x height)")
        if not runs[1::2].any():
            raise NoArea
        return runs
    raise ValueError("no segmentation as polygons or run lengths")


def _has_area(flat: NDArray[np.float64]) -> bool:
    """Whether there are three points, and not all on one line."""
    if flat.size < 6:
        return False
    x, y = (flat.reshape(-1, 2) - flat[:2]).T
    squares = x**2 + y**2
    far = squares.argmax()
    return bool((np.abs(x * y[far] - y * x[far]) > 1e-9 * squares[far]).any())


def unpack(packed: str) -> list[int]:
    """Return the run lengths that COCO packs into a string.

    Each is written in groups of five bits, lowest first, one character (from ``chr(48)`` on) each; bit 5 says that more
    follow, the last group's bit 4 is the sign. From the fourth run on what is written is the difference to the run two
    before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in packed:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"run lengths with the character {character!r}")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("run lengths that end within a number")
    return runs


def draw_mask(shape: Shape, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw a shape as a mask (H, W) of 0 and 1, in ``size``.

    A polygon covers the pixels whose centres lie inside it (even-odd rule), so that its area is kept on average;
    OpenCV's and PIL's fill also cover the outline, half a pixel too much on every side. Several polygons are the parts
    of one object.
    """
    if not isinstance(shape, list):
        runs = np.repeat(np.arange(len(shape)) % 2, shape).astype(np.uint8)
        return np.ascontiguousarray(runs.reshape(size[1], size[0]).T)
    mask = np.zeros(size, dtype=np.uint8)
    height, width = size
    for polygon in shape:
        x, y = polygon.T
        next_x, next_y = np.roll(polygon, -1, axis=0).T
        rows = np.arange(max(int(np.floor(y.min())), 0), min(int(np.ceil(y.max())), height))
        level = rows[:, None] + 0.5
        row, edge = np.nonzero((y <= level) != (next_y <= level))
        share = (level[row, 0] - y[edge]) / (next_y[edge] - y[edge])
        crossing = x[edge] + share * (next_x[edge] - x[edge])
        first = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)  # the first pixel centre right of the edge
        toggles = np.bincount(row * (width + 1) + first, minlength=len(rows) * (width + 1))
        mask[rows] |= (toggles.reshape(-1, width + 1).cumsum(axis=1)[:, :width] % 2).astype(np.uint8)
    return mask
