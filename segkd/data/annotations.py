"""The objects of a split as flat arrays, which load fast, weigh little, and hold only what a detector can take."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from segkd.common.orientation import UPRIGHT, swaps_sides
from segkd.common.reading import Photo
from segkd.data.samples import Samples
from segkd.data.shapes import Shape, draw_mask
from segkd.errors import SegkdError

if TYPE_CHECKING:
    from segkd.data.boxes import AnnotatedSpec


class Box(NamedTuple):
    """One box as a file gives it, before it is checked."""

    image: int  # which of the split's
    corners: tuple[float, float, float, float]  # xmin, ymin, xmax, ymax in pixels from the top left corner, half-open
    label: int  # 1 to K
    area: float | None = None  # pixels of the object; None for those of the box
    crowd: bool = False  # a region of many objects, which COCO does not outline one by one
    difficult: bool = False  # an object that Pascal VOC does not ask a detector to find
    shape: Shape | None = None  # what its mask is drawn from, where masks were asked for
    left_out: str = ""  # why it is left out, if the file or the data set says so


@dataclass
class Found:
    """What a format's reader hands over."""

    images: list[Path] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # height and width of each
    boxes: list[Box] = field(default_factory=list)  # of all images, in any order
    names: set[str] = field(default_factory=set)  # the classes that the files hold
    problems: list[str] = field(default_factory=list)  # one line for each thing that is wrong, with its path
    remarks: list[str] = field(default_factory=list)  # one line for each thing that a person should know


class Objects(NamedTuple):
    """The N objects of one image; ``boxes`` are xmin, ymin, xmax, ymax in its pixels, half-open, inside it."""

    boxes: NDArray[np.float32]  # (N, 4)
    labels: NDArray[np.int64]  # 1 to K
    areas: NDArray[np.float32]  # pixels
    crowd: NDArray[np.bool_]
    difficult: NDArray[np.bool_]
    masks: NDArray[np.uint8] | None = None  # (N, H, W), 0 and 1, where they were asked for

    def select(self, which: NDArray[Any] | slice) -> "Objects":
        """Return those that an index array, a mask or a slice picks."""
        return Objects._make(None if values is None else values[which] for values in self)


class AnnotatedSamples(Samples):
    """Images with their objects, clipped to the image; boxes that are none are left out.

    Attributes:
        with_masks: whether the objects come with their masks.
        sizes: int64 (I, 2), height and width of each image as its annotation gives it.
        objects: all objects, those of one image in a row.
    """

    def __init__(self, spec: "AnnotatedSpec", split: str, found: Found, with_masks: bool = False) -> None:
        super().__init__(spec, split, found.images)
        self.problems, self.remarks, self.with_masks = found.problems, found.remarks, with_masks
        self.sizes = np.array(found.sizes, dtype=np.int64).reshape(-1, 2)
        given = sorted(found.boxes, key=lambda box: box.image)
        place = np.array([box.image for box in given], dtype=np.int64)
        corners = np.array([box.corners for box in given], dtype=np.float64).reshape(-1, 4)
        stated = np.array([box.left_out for box in given], dtype=object)
        reasons = {why: stated == why for why in sorted({*stated} - {""})}
        with np.errstate(invalid="ignore"):
            boxes = np.clip(corners, 0, np.tile(self.sizes[place][:, ::-1], 2)).astype(np.float32)
            extent, visible = corners[:, 2:] - corners[:, :2], boxes[:, 2:] - boxes[:, :2]
            reasons |= {
                "not finite": ~np.isfinite(corners).all(1),
                "inverted": (extent < 0).any(1),
                "zero area": (extent == 0).any(1),
                "outside the image": (visible <= 0).any(1),
            }
        kept = np.ones(len(given), dtype=bool)
        for reason, holds in reasons.items():
            for box in (given[number] for number in np.flatnonzero(holds & kept)):
                line = f"{self.images[box.image]}: box {_listed(box.corners)}"
                self.dropped.setdefault(reason, []).append(line)
            kept &= ~holds
        whole, boxes = [box for box, keep in zip(given, kept, strict=True) if keep], boxes[kept]
        own = visible[kept].prod(1)
        self.objects = Objects(
            boxes,
            np.array([box.label for box in whole], dtype=np.int64),
            np.array([own[i] if box.area is None else box.area for i, box in enumerate(whole)], dtype=np.float32),
            np.array([box.crowd for box in whole], dtype=bool),
            np.array([box.difficult for box in whole], dtype=bool),
        )
        self._shapes = [box.shape for box in whole]
        self._starts = np.searchsorted(place[kept], np.arange(len(self.images) + 1))

    def of(self, index: int) -> Objects:
        """Return the objects of one image, without their masks."""
        return self.objects.select(self._range(index))

    def masks(self, index: int) -> NDArray[np.uint8]:
        """Return the masks (N, H, W) of one image's objects, where they were asked for."""
        size = (int(self.sizes[index, 0]), int(self.sizes[index, 1]))
        drawn = [draw_mask(shape, size) for shape in self._shapes[self._range(index)] if shape is not None]
        return np.stack(drawn) if drawn else np.zeros((0, *size), dtype=np.uint8)

    def _range(self, index: int) -> slice:
        return slice(int(self._starts[index]), int(self._starts[index + 1]))

    def turn(self, index: int, photo: Photo) -> int:
        """Return the orientation tag that one image's objects have to be turned by, to be upright as it is.

        They were drawn over it either as it is seen or as it is stored. Which of the two the size in its annotation
        tells; where that tells nothing, as it is seen, which is what labelling tools show.
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
        boxes, labels, _, crowd, *_ = self.objects
        place = np.repeat(np.arange(len(self.images)), np.diff(self._starts))
        rows = np.column_stack([place, labels, crowd, boxes])
        _, first, counts = np.unique(rows, axis=0, return_index=True, return_counts=True)
        if (counts > 1).any():
            one = first[counts > 1].min()
            lines.append(
                f"boxes with the class and corners of another, which count too: {int((counts - 1).sum())}, such as "
                f"{_listed(boxes[one])} of {self.images[place[one]]}"
            )
        return lines


def _listed(corners: Sequence[float] | NDArray[np.float32]) -> str:
    return f"[{', '.join(f'{value:g}' for value in corners)}]"
