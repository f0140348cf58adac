"""From a split's files to its annotations, and from one image's to arrays; every error names its file."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segkd.common.orientation import UPRIGHT, swaps_sides, upright, upright_boxes
from segkd.common.reading import read_photo, refuse
from segkd.data.annotations import Annotations, Found, Objects
from segkd.data.check import classes_have
from segkd.detection.coco import read_coco
from segkd.detection.datasets import DetectionSpec
from segkd.detection.voc import read_voc
from segkd.errors import SegkdError, nearest


def read_annotations(
    spec: DetectionSpec, split: str, root: str | os.PathLike[str] | None = None, masks: bool = False
) -> Annotations:
    """Read all annotations of a split; images are opened only where an annotation does not give their size.

    Every image must be there, so that training does not stop at one in the midst of an epoch.

    Args:
        spec: the data set.
        split: which split of it.
        root: where the data lie, if not where the spec says.
        masks: whether to read masks too.

    Raises:
        SegkdError: unknown split, missing root, list, annotations or image, a file that cannot be read, a class that
            the data set does not name, or masks in format ``voc``, which holds none.
    """
    annotations, problems = scan_annotations(spec, split, root, masks)
    refuse([*problems, *_absent(annotations.images)])
    return annotations


def scan_annotations(
    spec: DetectionSpec, split: str, root: str | os.PathLike[str] | None = None, masks: bool = False
) -> tuple[Annotations, list[str]]:
    """Like :func:`read_annotations`, but return all that is whole together with one line for each thing that is not.

    Whether the images are there is not looked at.

    Raises:
        SegkdError: unknown split, missing root, or masks in format ``voc``.
    """
    spec.check_split(split)
    base = spec.existing_root(root)
    if masks and spec.format == "voc":
        raise SegkdError(f"data set {spec.name!r} has format 'voc', which has no masks, as Mask R-CNN needs")
    try:
        found = read_coco(spec, split, base, masks) if spec.format == "coco" else read_voc(spec, split, base)
    except SegkdError as error:
        found = Found(problems=[str(error)])
    annotations = Annotations(found, spec.max_pixels)
    unseen = [name for name, label in spec.label_of.items() if label not in annotations.objects.labels]
    if unseen and len(annotations):
        annotations.remarks.append(f"{spec.name} {split}: {classes_have(unseen)} no box")
    remarks = [
        f"ignore names the class {name!r}, which the annotations do not have; {nearest(name, sorted(found.names))}"
        for name in spec.ignore
        if found.names and name not in found.names
    ]
    annotations.remarks += [f"{spec.name} {split}: {line}" for line in remarks + annotations.repeated()]
    return annotations, found.problems


class Tagged(NamedTuple):
    """An annotated image, upright.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        tag: the orientation tag that it was turned by.
        along: the tag that what is annotated has to be turned by: ``tag``, or 1 where it is annotated upright.
        converted: what was lost in making it 8-bit RGB, see `segkd.common.pixels.conversions`.
    """

    image: np.ndarray
    tag: int
    along: int
    converted: list[str]


def read_annotated_image(annotations: Annotations, index: int) -> Tagged:
    """Read an image.

    Boxes were drawn over it either as it is seen or as it is stored. Which of the two the size in its annotation tells;
    where that tells nothing, as it is seen, which is what labelling tools show.

    Raises:
        SegkdError: missing or broken image, or one of another size than its annotation gives.
    """
    path = annotations.images[index]
    image, tag, converted = read_photo(path, annotations.max_pixels)
    height, width = annotations.sizes[index].tolist()
    if image.shape[:2] == (height, width):
        return Tagged(image, tag, UPRIGHT, converted)
    if swaps_sides(tag) and image.shape[:2] == (width, height):
        return Tagged(image, tag, tag, converted)
    raise SegkdError(
        f"image {path} is {image.shape[1]}x{image.shape[0]}, but its annotation says {width}x{height} (width x height)"
    )


def read_annotated(
    annotations: Annotations, index: int, masks: bool = False
) -> tuple[np.ndarray, Objects, np.ndarray | None]:
    """Read an image with its objects, upright: the image (H, W, 3), them, and if asked for their masks (N, H, W).

    Raises:
        SegkdError: as `read_annotated_image`.
    """
    image, _, along, _ = read_annotated_image(annotations, index)
    objects = annotations.of(index)
    drawn = annotations.masks(index) if masks else None
    if along != UPRIGHT:
        height, width = annotations.sizes[index].tolist()
        objects = objects._replace(boxes=upright_boxes(objects.boxes, along, (height, width)))
        drawn = None if drawn is None else upright(drawn.transpose(1, 2, 0), along).transpose(2, 0, 1)
    return image, objects, drawn


def _absent(images: list[Path]) -> list[str]:
    """Return one line for each of the images that is not there."""
    # Each folder is listed once: to ask for a hundred thousand images one by one takes minutes on a network's disk.
    folders = {image.parent for image in images}
    files = {folder: set(os.listdir(folder)) if folder.is_dir() else set() for folder in folders}
    # Some disks open a file also by a name of other case than they list.
    return [f"no image {x}" for x in images if x.name not in files[x.parent] and not x.is_file()]
