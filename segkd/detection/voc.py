"""Reading Pascal VOC's XML: one file an image."""

import glob
import math
import os
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

from segkd.common.orientation import upright_size
from segkd.common.reading import read_stems
from segkd.detection.annotations import Box, Found
from segkd.detection.datasets import DetectionSpec, fill
from segkd.errors import SegkdError, nearest

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(spec: DetectionSpec, split: str, base: Path) -> Found:
    """Read one split.

    Pascal VOC counts pixels from 1 and its boxes include both corner pixels, so that 1, 1, width, height is the whole
    image. Detectors and COCO count from 0 and take corners as points of the plane: that box is 0, 0, width, height. So
    1 is taken off the minimum alone. A box whose corners coincide in the file is left as it is, to be dropped for its
    area of zero: nobody meant an object one pixel wide.

    Args:
        spec: the data set, in format ``voc``.
        split: which split of it.
        base: where the data lie.

    Raises:
        SegkdError: the list of the split is missing, or there is no XML file.
    """
    part = spec.splits[split]
    if part.list is not None:
        stems = read_stems(base / part.list)
    else:
        head, tail = part.annotations.split("*")
        # glob, unlike Path.glob, leaves out hidden files such as the ._* that macOS archives bring along.
        files = sorted(file.replace(os.sep, "/") for file in glob.glob(part.annotations, root_dir=base))
        stems = [file.removeprefix(head).removesuffix(tail) for file in files]
    if not stems:
        raise SegkdError(f"{spec.name} {split}: no image in {base / (part.list or part.annotations)}")
    found = Found()
    labels = spec.label_of
    for stem in stems:
        path, image = fill(part.annotations, stem, base), fill(part.images, stem, base)
        try:
            size, boxes = _read_file(path, image, len(found.images), labels)
        except SegkdError as error:
            found.problems.append(str(error))
            continue
        found.images.append(image)
        found.sizes.append(size)
        found.boxes += boxes
    return found


def _read_file(path: Path, image: Path, place: int, labels: dict[str, int]) -> tuple[tuple[int, int], list[Box]]:
    """Return height and width of one image, and its boxes."""
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise SegkdError(f"no annotation {path} of image {image}") from None
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise SegkdError(f"{path}: cannot be read as XML: {error}") from None
    boxes = []
    for thing in root.findall("object"):
        name = (thing.findtext("name") or "").strip()
        if name not in labels:
            raise SegkdError(
                f"{path}: has the class {name!r}, which the data set does not name; {nearest(name, labels)}"
            )
        left, top, right, bottom = (_number(path, thing, f"bndbox/{corner}") for corner in CORNERS)
        if right > left and bottom > top:
            left, top = left - 1, top - 1
        difficult = (thing.findtext("difficult") or "0").strip() == "1"
        boxes.append(Box(place, (left, top, right, bottom), labels[name], difficult=difficult))
    return _size(path, root, image), boxes


def _size(path: Path, root: ElementTree.Element, image: Path) -> tuple[int, int]:
    """Height and width as annotated; where they are not (or 0, as some tools write), of the upright image."""
    if root.find("size") is not None:
        height, width = (int(_number(path, root, f"size/{key}")) for key in ("height", "width"))
        if height > 0 and width > 0:
            return height, width
    try:
        with Image.open(image) as opened:
            return upright_size(opened)
    except FileNotFoundError:
        raise SegkdError(f"no image {image}") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise SegkdError(f"cannot read image {image}: {error}") from None


def _number(path: Path, element: ElementTree.Element, key: str) -> float:
    text = element.findtext(key)
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SegkdError(f"{path}: <{element.tag}> needs a number as {key}, got {text!r}")
    return value
