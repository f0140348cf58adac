"""The orientation tag of a camera (EXIF): how an image is stored, and how pixels and boxes are turned upright."""

import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

# PIL says of which byte it stumbles, not in which file; the image is read all the same.
warnings.filterwarnings("ignore", message="(Possibly c|C)orrupt EXIF data", module=r"PIL\.")

UPRIGHT = 1
"""The tag of an image that is stored as it is meant to be seen."""


def orientation(image: Image.Image) -> int:
    """Return an image's tag, 1 to 8; 1 also where it has none, or one that nobody has defined."""
    try:
        tag = image.getexif().get(ExifTags.Base.Orientation)
    # A broken tag raises whatever its decoding stumbles over; the pixels can be read all the same.
    except Exception:
        return UPRIGHT
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else UPRIGHT


def swaps_sides(tag: int) -> bool:
    """Whether what is stored as (H, W) is (W, H) when it is upright."""
    return tag > 4


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the height and width that an image has when it is upright, of one whose pixels are not loaded yet."""
    # PIL gives those of a TIFF already.
    swap = image.format != "TIFF" and swaps_sides(orientation(image))
    return (image.width, image.height) if swap else (image.height, image.width)


def _mirrors(tag: int) -> tuple[bool, bool]:
    """Return whether what a tag is of is mirrored across, and top to bottom, once its sides are swapped."""
    return tag in (2, 3, 6, 7), tag in (3, 4, 7, 8)


def upright(pixels: np.ndarray, tag: int) -> np.ndarray:
    """Turn stored pixels (H, W, ...) as the tag says; of ``tag`` 1, the array itself."""
    across, down = _mirrors(tag)
    if swaps_sides(tag):
        pixels = pixels.swapaxes(0, 1)
    if across:
        pixels = pixels[:, ::-1]
    if down:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def upright_boxes(boxes: NDArray[np.float32], tag: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Turn boxes (N, 4), corners in pixels of a stored image of ``size``, height and width, as `upright` turns that."""
    across, down = _mirrors(tag)
    height, width = size
    left, top, right, bottom = boxes.T
    if swaps_sides(tag):
        left, top, right, bottom, height, width = top, left, bottom, right, width, height
    if across:
        left, right = width - right, width - left
    if down:
        top, bottom = height - bottom, height - top
    return np.stack([left, top, right, bottom], axis=1)
