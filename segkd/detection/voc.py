"""Reading Pascal VOC's XML: one file an image."""

import math
from pathlib import Path
from xml.etree import ElementTree

from segkd.common.orientation import upright_size
from segkd.common.paths import check_regular
from segkd.common.pixels import open_file
from segkd.common.reading import read_stems
from segkd.data.annotations import Box, Found
from segkd.data.patterns import Files, Pattern, unclaimed
from segkd.detection.datasets import DetectionSpec
from segkd.errors import SegkdError

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
    part, label = spec.splits[split], f"{spec.name} {split}"
    images, annotations = Pattern(part.images), Pattern(part.annotations)
    there, files = images.files(base), annotations.files(base)
    stems = [key[0] for key in files.found] if part.list is None else read_stems(base / part.list)
    if not stems:
        raise SegkdError(f"{label}: no image in {base / (part.list or part.annotations)}")
    found = Found()
    for stem in stems:
        try:
            image = _locate(label, images, there, stem, base)
            path = _locate(label, annotations, Files(files.found, {}), stem, base)
            size, boxes = _read_file(path, image, len(found.images), spec, found.names)
        except SegkdError as error:
            found.problems.append(str(error))
            continue
        found.images.append(image)
        found.sizes.append(size)
        found.boxes += boxes
    if part.list is None:
        others = {(s.images, s.annotations) for s in spec.splits.values()} - {(part.images, part.annotations)}
        lone = unclaimed(dict(sorted({**there.beside, **there.found}.items())), files.found, others, base)
        for bare, file in list(lone.items())[:1]:
            found.remarks.append(
                f"{label}: images without an annotation, left out: {len(lone)}, such as {base / file}, whose "
                f"annotation would be {annotations.fill(bare, base)}"
            )
    return found


def _locate(label: str, pattern: Pattern, files: Files, stem: str, base: Path) -> Path:
    """Return the file of a stem, whether or not it is there.

    Raises:
        SegkdError: there are two, or it is there with another suffix.
    """
    found, beside = (part.get((stem,), []) for part in files)
    if len(found) > 1:
        both = " and ".join(str(base / file) for file in found)
        raise SegkdError(f"{label}: {both} differ in their suffix only: keep one of them")
    if beside and not found:
        raise SegkdError(f"{label}: {base / beside[0]} does not fit {pattern.text}{pattern.advice(beside)}")
    return base / found[0] if found else pattern.fill((stem,), base)


def _read_file(
    path: Path, image: Path, place: int, spec: DetectionSpec, names: set[str]
) -> tuple[tuple[int, int], list[Box]]:
    """Return height and width of one image, and its boxes; their classes are added to ``names``."""
    check_regular(path, "annotation")
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise SegkdError(f"no annotation {path} of image {image}") from None
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise SegkdError(f"{path}: cannot be read as XML: {error}") from None
    boxes = []
    for thing in root.findall("object"):
        name = (thing.findtext("name") or "").strip()
        names.add(name)
        label = 0 if name in spec.ignore else spec.label_of.get(name)
        if label is None:
            raise SegkdError(f"{path}: {spec.unknown_class(name)}")
        left, top, right, bottom = (_number(path, thing, f"bndbox/{corner}") for corner in CORNERS)
        if right > left and bottom > top:
            left, top = left - 1, top - 1
        difficult = (thing.findtext("difficult") or "0").strip() == "1"
        left_out = "" if label else f"class {name!r}, which is ignored"
        boxes.append(Box(place, (left, top, right, bottom), label, difficult=difficult, left_out=left_out))
    return _size(path, root, image), boxes


def _size(path: Path, root: ElementTree.Element, image: Path) -> tuple[int, int]:
    """Height and width as annotated; where they are not (or 0, as some tools write), of the upright image."""
    if root.find("size") is not None:
        height, width = (int(_number(path, root, f"size/{key}")) for key in ("height", "width"))
        if height > 0 and width > 0:
            return height, width
    check_regular(image, "image")
    try:
        with open_file(image) as opened:
            return upright_size(opened)
    except FileNotFoundError:
        raise SegkdError(f"no image {image}") from None
    except (OSError, SyntaxError, ValueError) as error:
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
