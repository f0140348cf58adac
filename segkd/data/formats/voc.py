"""Boxes of Pascal VOC's XML: one file an image."""

import math
from pathlib import Path
from xml.etree import ElementTree

from segkd.data.annotations import Box
from segkd.data.boxes import PerImageSpec, image_size
from segkd.errors import SegkdError


class Voc(PerImageSpec):
    """A data set of Pascal VOC's boxes.

    Pascal VOC counts pixels from 1 and its boxes include both corner pixels, so that 1, 1, width, height is the whole
    image. Detectors and COCO count from 0 and take corners as points of the plane: that box is 0, 0, width, height. So
    1 is taken off the minimum alone. A box whose corners coincide in the file is left as it is, to be dropped for its
    area of zero: nobody meant an object one pixel wide.
    """

    title = "boxes of XML files as Pascal VOC writes them, one an image"

    def read_file(self, path: Path, image: Path, place: int, names: set[str]) -> tuple[tuple[int, int], list[Box]]:
        """Return height and width of one image, and its boxes, see `PerImageSpec.read_file`."""
        try:
            root = ElementTree.parse(path).getroot()
        except (OSError, ElementTree.ParseError, ValueError) as error:
            raise SegkdError(f"{path}: cannot be read as XML: {error}") from None
        boxes = []
        for thing in root.findall("object"):
            name = (thing.findtext("name") or "").strip()
            names.add(name)
            try:
                label, left_out = self.label_named(name)
            except ValueError as error:
                raise SegkdError(f"{path}: {error}") from None
            corners = (_number(path, thing, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax"))
            left, top, right, bottom = corners
            if right > left and bottom > top:
                left, top = left - 1, top - 1
            difficult = (thing.findtext("difficult") or "0").strip() == "1"
            boxes.append(Box(place, (left, top, right, bottom), label, difficult=difficult, left_out=left_out))
        size = (0, 0)
        if root.find("size") is not None:
            size = (int(_number(path, root, "size/height")), int(_number(path, root, "size/width")))
        # Some tools write 0.
        return size if min(size) > 0 else image_size(image), boxes


def _number(path: Path, element: ElementTree.Element, key: str) -> float:
    text = element.findtext(key)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SegkdError(f"{path}: <{element.tag}> needs a number as {key}, got {text!r}")
    return value
