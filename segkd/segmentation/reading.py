"""From files to arrays: images as RGB, masks as class ids, and an error that names the file for everything else."""

from pathlib import Path

import numpy as np

from segkd.common.orientation import upright
from segkd.common.reading import open_image, read_tagged
from segkd.errors import SegkdError
from segkd.segmentation.datasets import INVALID, DatasetSpec
from segkd.segmentation.splits import Pair

_INDEX_MODES = {"1", "L", "P"}


def read_mask(path: Path, spec: DatasetSpec) -> np.ndarray:
    """Read a mask as uint8 (H, W) of class ids, ``spec.ignore_index`` where pixels do not count.

    Palette files are read as their indices, not as their colours. A mask's own orientation tag is applied.

    Raises:
        SegkdError: missing, truncated or unknown file, a mask with colours or more than 8 bits, a raw id that the
            data set does not know.
    """
    mask, _, left = open_image(path, "mask")
    if mask.mode not in _INDEX_MODES:
        raise SegkdError(
            f"mask {path} has mode {mask.mode!r}; expected one 8-bit channel of ids (greyscale or palette)"
        )
    raw = upright(np.asarray(mask).astype(np.uint8), left)
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
    """Read an image (H, W, 3) and its mask (H, W), both upright.

    Raises:
        SegkdError: as `read_tagged` and `read_mask`, or the two differ in size.
    """
    image, tag = read_tagged(pair.image)
    return image, align(pair, image, tag, read_mask(pair.mask, spec))


def align(pair: Pair, image: np.ndarray, tag: int, mask: np.ndarray) -> np.ndarray:
    """Return a mask (H, W) in the size of its image, which was turned by its orientation tag.

    A mask without a tag of its own was drawn over the image either as it is seen or as it is stored. Which of the two
    its size tells; where it tells nothing, as the image is seen, which is what labelling tools show.

    Args:
        pair: whose they are.
        image: (H, W, 3), upright.
        tag: that the image was turned by.
        mask: (H, W), turned by its own tag if it has one.

    Raises:
        SegkdError: the two differ in size either way; both files are named.
    """
    if image.shape[:2] != mask.shape:
        along = upright(mask, tag)
        if image.shape[:2] == along.shape:
            return along
        raise SegkdError(
            f"image {pair.image} is {image.shape[1]}x{image.shape[0]} but "
            f"mask {pair.mask} is {mask.shape[1]}x{mask.shape[0]} (width x height)"
        )
    return mask
