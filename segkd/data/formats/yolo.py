"""Boxes of YOLO's text files: one an image, a line an object."""

from pathlib import Path

from segkd.data.annotations import Box
from segkd.data.boxes import PerImageSpec, image_size
from segkd.errors import SegkdError


class Yolo(PerImageSpec):
    """A data set of YOLO's boxes.

    A line is ``class cx cy w h``: the number of a class in ``classes``, counted from 0, then the box's centre, width
    and height as shares of the width and height of the upright image, from 0 to 1. A line of a segment, ``class x1 y1
    x2 y2 ...``, gives the box around it. An empty file is an image without objects.
    """

    title = "boxes of text files as YOLO writes them, one an image"

    def read_file(self, path: Path, image: Path, place: int, names: set[str]) -> tuple[tuple[int, int], list[Box]]:
        """Return height and width of one image, and its boxes, see `PerImageSpec.read_file`."""
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SegkdError(f"{path}: cannot be read as text: {error}") from None
        height, width = image_size(image)
        boxes = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                label, corners = self._object(line.split())
            except ValueError as error:
                raise SegkdError(f"{path}: line {number}: {error}, got {line.strip()[:80]!r}") from None
            names.add(self.class_names[label])
            left, top, right, bottom = corners
            boxes.append(Box(place, (left * width, top * height, right * width, bottom * height), label + 1))
        return (height, width), boxes

    def _object(self, words: list[str]) -> tuple[int, tuple[float, float, float, float]]:
        """Return the class of a line, from 0, and its corners as shares of the image; ValueError says what is wrong."""
        try:
            first, *values = (float(word) for word in words)
        except ValueError:
            raise ValueError("expected numbers: class cx cy w h, or class x1 y1 x2 y2 ...") from None
        if len(values) != 4 and (len(values) < 6 or len(values) % 2):
            raise ValueError("expected class cx cy w h, or class and at least three x y")
        if not first.is_integer() or not 0 <= first < self.num_classes:
            raise ValueError(f"expected a class from 0 to {self.num_classes - 1}")
        if not all(0 <= value <= 1 for value in values):
            raise ValueError("expected shares of the image from 0 to 1")
        if len(values) > 4:
            across, down = values[::2], values[1::2]
            return int(first), (min(across), min(down), max(across), max(down))
        middle, centre, width, height = values
        return int(first), (middle - width / 2, centre - height / 2, middle + width / 2, centre + height / 2)
