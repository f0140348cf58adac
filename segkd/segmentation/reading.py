"""From files to arrays: images as RGB, masks as class ids, and an error that names the file for everything else."""

from pathlib import Path

import numpy as np

from segkd.common.reading import open_image, read_image
from segkd.errors import SegkdError
from segkd.segmentation.datasets import INVALID, DatasetSpec, Pair

_INDEX_MODES = {"1", "L", "P"}


def read_mask(path: Path, spec: DatasetSpec) -> np.ndarray:
    """Read a mask as uint8 (H, W) of class ids, ``spec.ignore_index`` where pixels do not count.

    Palette files are read as their indices, not as their colours.

    Raises:
        SegkdError: missing, truncated or unknown file, a mask with colours or more than 8 bits, a raw id that the
            data set does not know.
    """
    with open_image(path, "mask") as mask:
        if mask.mode not in _INDEX_MODES:
            raise SegkdError(
                f"mask {path} has mode {mask.mode!r}; expected one 8-bit channel of ids (greyscale or palette)"
            )
        raw = np.asarray(mask).astype(np.uint8)
    ids = spec.lookup[raw]
    if ids.min() == INVALID:
        unknown = np.unique(raw[ids == INVALID])
        known = "label_map" if spec.label_map is not None else f"the {spec.num_classes} classes"
        listed = ", ".join(str(value) for value in unknown[:8]) + (", ..." if unknown.size > 8 else "")
        raise SegkdError(
            f"mask {path} holds raw id {listed}, which {known} of data set {spec.name!r} and "
            f"ignore_index {spec.ignore_index} do not cover"
        )
    return ids.astype(np.uint8)


def read_pair(pair: Pair, spec: DatasetSpec) -> tuple[np.ndarray, np.ndarray]:
    """Read an image (H, W, 3) and its mask (H, W).

    Raises:
        SegkdError: as :func:`read_image` and :func:`read_mask`, or the two differ in size.
    """
    image, mask = read_image(pair.image), read_mask(pair.mask, spec)
    check_same_size(pair, image, mask)
    return image, mask


def check_same_size(pair: Pair, image: np.ndarray, mask: np.ndarray) -> None:
    """Raise a SegkdError that names both files unless image (H, W, 3) and mask (H, W) have one size."""
    if image.shape[:2] != mask.shape:
        raise SegkdError(
            f"image {pair.image} is {image.shape[1]}x{image.shape[0]} but "
            f"mask {pair.mask} is {mask.shape[1]}x{mask.shape[0]} (width x height)"
        )
