"""The boxes of a split as flat arrays, which load fast, weigh little, and hold only boxes that a detector can take."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkd.common.orientation import UPRIGHT, swaps_sides
from segkd.common.reading import Photo
from segkd.data.shapes import Shape, draw_mask
from segkd.errors import SegkdError


class Box(NamedTuple):
    """One box as a file gives it, before it is checked.

    Attributes:
        image: which image it belongs to, as an index.
        corners: xmin, ymin, xmax, ymax in pixels from the image's top left corner, half-open.
        label: 1 to K.
        area: pixels of the object; that of the box where the file does not say.
        crowd: a region of many objects, which COCO does not outline one by one.
        difficult: an object that Pascal VOC does not ask a detector to find.
        shape: what its mask is drawn from, where masks were asked for.
        left_out: why it is left out, if the file or the data set says so.
    """

    image: int
    corners: tuple[float, float, float, float]
    label: int
    area: float | None = None
    crowd: bool = False
    difficult: bool = False
    shape: Shape | None = None
    left_out: str = ""


@dataclass
class Found:
    """What a format's reader hands over.

    Attributes:
        images: path of each image.
        sizes: height and width of each.
        boxes: all boxes, in any order.
        names: the classes that the files hold.
        problems: one line for each thing that is wrong with the files, with its path.
        remarks: one line for each thing that a person should know of them.
    """

    images: list[Path] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


class Objects(NamedTuple):
    """The objects of one image.

    Attributes:
        boxes: float32 (N, 4), xmin, ymin, xmax, ymax in pixels, half-open, inside the image.
        labels: int64 (N,), 1 to K.
        areas: float32 (N,), pixels.
        crowd: bool (N,).
        difficult: bool (N,).
        masks: uint8 (N, H, W), 0 and 1, where they were asked for.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float32]
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    masks: NDArray[np.uint8] | None = None

    def select(self, which: NDArray[Any] | slice) -> "Objects":
        """Return those that an index array, a mask or a slice picks."""
        return Objects._make(None if values is None else values[which] for values in self)


class Annotations:
    """The images of a split and their boxes, clipped to the image; boxes that are none are left out.

    Args:
        found: what a format's reader handed over.

    Attributes:
        images: path of each image.
        sizes: int64 (I, 2), height and width of each image as its annotation gives it.
        objects: all objects, those of one image in a row.
        dropped: reason -> where, one line for each box left out: ``"not finite"``, ``"inverted"`` (a maximum below
            its minimum), ``"zero area"``, ``"outside the image"``, and what `Box.left_out` says.
    """

    def __init__(self, found: Found) -> None:
        self.images = found.images
        self.sizes = np.array(found.sizes, dtype=np.int64).reshape(-1, 2)
        given = sorted(found.boxes, key=lambda box: box.image)
        place = np.array([box.image for box in given], dtype=np.int64)
        corners = np.array([box.corners for box in given], dtype=np.float64).reshape(-1, 4)
        limits = np.tile(self.sizes[place][:, ::-1], 2)
        with np.errstate(invalid="ignore"):
            boxes = np.clip(corners, 0, limits).astype(np.float32)
            extent, visible = corners[:, 2:] - corners[:, :2], boxes[:, 2:] - boxes[:, :2]
            stated = [box.left_out for box in given]
            reasons: dict[str, Any] = {
                why: np.array([why == other for other in stated], dtype=bool) for why in sorted({*stated} - {""})
            }
            reasons |= {
                "not finite": ~np.isfinite(corners).all(1),
                "inverted": (extent < 0).any(1),
                "zero area": (extent == 0).any(1),
                "outside the image": (visible <= 0).any(1),
            }
        kept = np.ones(len(given), dtype=bool)
        self.dropped: dict[str, list[str]] = {}
        for reason, holds in reasons.items():
            lines = [f"{self.images[given[i].image]}: box {_corners(given[i])}" for i in np.nonzero(holds & kept)[0]]
            if lines:
                self.dropped[reason] = lines
            kept &= ~holds
        whole = [box for box, keep in zip(given, kept, strict=True) if keep]
        boxes = boxes[kept]
        own = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        self.objects = Objects(
            boxes,
            np.array([box.label for box in whole], dtype=np.int64),
            np.array([own[i] if box.area is None else box.area for i, box in enumerate(whole)], dtype=np.float32),
            np.array([box.crowd for box in whole], dtype=bool),
            np.array([box.difficult for box in whole], dtype=bool),
        )
        self._shapes = [box.shape for box in whole]
        self._starts = np.searchsorted(place[kept], np.arange(len(self.images) + 1))

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.images)

    def of(self, index: int) -> Objects:
        """Return the objects of one image."""
        return self.objects.select(self._range(index))

    def masks(self, index: int) -> NDArray[np.uint8]:
        """Return the masks (N, H, W) of one image's objects, read with masks."""
        size = (int(self.sizes[index, 0]), int(self.sizes[index, 1]))
        drawn = [draw_mask(shape, size) for shape in self._shapes[self._range(index)] if shape is not None]
        return np.stack(drawn) if drawn else np.zeros((0, *size), dtype=np.uint8)

    def tag(self, index: int, photo: Photo) -> int:
        """Return the orientation tag that one image's objects have to be turned by, to be upright as it is.

        They were drawn over it either as it is seen or as it is stored. Which of the two the size in its annotation
        tells; where that tells nothing, as it is seen, which is what labelling tools show.

        Raises:
            SegkdError: the image has another size than its annotation gives.
        """
        height, width = self.sizes[index].tolist()
        size = photo.pixels.shape[:2]
        if size == (height, width):
            return UPRIGHT
        if swaps_sides(photo.tag) and size == (width, height):
            return photo.tag
        raise SegkdError(
            f"image {self.images[index]} is {size[1]}x{size[0]}, but its annotation says {width}x{height} "
            "(width x height)"
        )

    def repeated(self) -> list[str]:
        """Return a line on images that are there more than once, and on boxes with the class and corners of another."""
        lines = []
        twice = [path for path, count in Counter(self.images).items() if count > 1]
        if twice:
            lines.append(f"images that stand there more than once, under several ids: {len(twice)}, such as {twice[0]}")
        labels, crowd = self.objects.labels, self.objects.crowd
        place = np.repeat(np.arange(len(self.images)), np.diff(self._starts))
        rows = np.column_stack([place, labels, crowd, self.objects.boxes])
        _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
        if (counts > 1).any():
            one = first[counts > 1].min()
            corners = ", ".join(f"{value:g}" for value in self.objects.boxes[one])
            lines.append(
                f"boxes with the class and corners of another, which count too: {int((counts - 1).sum())}, such as "
                f"[{corners}] of {self.images[place[one]]}"
            )
        return lines

    def _range(self, index: int) -> slice:
        return slice(int(self._starts[index]), int(self._starts[index + 1]))


def _corners(box: Box) -> str:
    return f"[{', '.join(f'{value:g}' for value in box.corners)}]"
