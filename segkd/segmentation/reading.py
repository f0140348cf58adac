"""From files to arrays: images as RGB, masks as class ids, and an error that names the file for everything else."""

from pathlib import Path

import numpy as np

from segkd.common.orientation import upright
from segkd.common.reading import open_image, read_photo
from segkd.data.splits import Pair
from segkd.errors import SegkdError
from segkd.segmentation.colors import ids_of_colors
from segkd.segmentation.datasets import INVALID, DatasetSpec

_WITH_ALPHA = {"LA", "PA", "RGBA"}
_MODES = {"1", "L", "P", "RGB"} | _WITH_ALPHA
_LOSSY = {"JPEG", "MPO"}


def read_mask(path: Path, spec: DatasetSpec) -> np.ndarray:
    """Read a mask as uint8 (H, W) of class ids, ``spec.ignore_index`` where pixels do not count.

    Whether a file holds ids or colours is said in `DatasetSpec`. A palette's indices are ids, unless ``spec.masks`` is
    ``"colors"``. A mask's own orientation tag is applied.

    Raises:
        SegkdError: missing, truncated or unknown file; a JPEG; a mask of more than 8 bits or with transparent pixels; a
            raw id or a colour that the data set does not know.
    """
    mask, _, left, _ = open_image(path, "mask", spec.max_pixels)
    if mask.format in _LOSSY or "jpeg" in str(mask.info.get("compression")):
        raise SegkdError(
            f"mask {path} is a JPEG inside, whose compression changes ids: save it as PNG from where it was drawn "
            "(a JPEG that is converted keeps its faults)"
        )
    if mask.mode not in _MODES:
        raise SegkdError(f"mask {path} has mode {mask.mode!r}; expected 8 bits a channel: ids, a palette or RGB")
    if mask.mode in _WITH_ALPHA:
        clear = np.count_nonzero(np.asarray(mask)[..., -1] != 255)
        if clear:
            raise SegkdError(f"mask {path}: {clear} pixels are not opaque: save it without transparency")
    in_color = mask.mode.startswith("RGB") if spec.masks is None else spec.masks == "colors"
    if in_color:
        return ids_of_colors(path, upright(np.asarray(mask.convert("RGB")), left), spec)
    raw = upright(_one_channel(path, np.asarray(mask), mask.mode), left)
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


def _one_channel(path: Path, pixels: np.ndarray, mode: str) -> np.ndarray:
    """Return raw ids, uint8 (H, W), of pixels in one of `_MODES`."""
    if mode.startswith("RGB") and (pixels[..., :3] != pixels[..., :1]).any():
        raise SegkdError(f"mask {path} has colours, but its data set says masks: ids")
    return (pixels if pixels.ndim == 2 else pixels[..., 0]).astype(np.uint8)


def read_pair(pair: Pair, spec: DatasetSpec) -> tuple[np.ndarray, np.ndarray]:
    """Read an image (H, W, 3) and its mask (H, W), both upright.

    Raises:
        SegkdError: as `read_photo` and `read_mask`, or the two differ in size.
    """
    image, tag, _ = read_photo(pair.image, spec.max_pixels)
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
