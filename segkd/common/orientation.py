"""The orientation tag of a camera (EXIF): how an image is stored, and how pixels and boxes are turned upright."""

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

# PIL says of which byte it stumbles, not in which file; the image is read all the same.
warnings.filterwarnings("ignore", message="(Possibly c|C)orrupt EXIF data", module=r"PIL\.")

UPRIGHT = 1
"""The tag of an image that is stored as it is meant to be seen."""


class _Turn(NamedTuple):
    """Rows and columns are swapped, then the result is mirrored across, then top to bottom, where these say so."""

    swap: bool
    across: bool
    down: bool


_TURNS = {
    UPRIGHT: _Turn(False, False, False),
    2: _Turn(False, True, False),
    3: _Turn(False, True, True),
    4: _Turn(False, False, True),
    5: _Turn(True, False, False),
    6: _Turn(True, True, False),
    7: _Turn(True, True, True),
    8: _Turn(True, False, True),
}


def orientation(image: Image.Image) -> int:
    """Return an image's tag, 1 to 8; 1 also where it has none, or one that nobody has defined."""
    try:
        tag = image.getexif().get(ExifTags.Base.Orientation)
    # A broken tag raises whatever its decoding stumbles over; the pixels can be read all the same.
    except Exception:
        return UPRIGHT
    return tag if isinstance(tag, int) and tag in _TURNS else UPRIGHT


def swaps_sides(tag: int) -> bool:
    """Whether what is stored as (H, W) is (W, H) when it is upright."""
    return _TURNS[tag].swap


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the height and width that an image has when it is upright, of one whose pixels are not loaded yet."""
    # PIL gives those of a TIFF already.
    swap = image.format != "TIFF" and swaps_sides(orientation(image))
    return (image.width, image.height) if swap else (image.height, image.width)


def upright(pixels: np.ndarray, tag: int) -> np.ndarray:
    """Turn stored pixels (H, W, ...) as the tag says; of ``tag`` 1, the array itself."""
    turn = _TURNS[tag]
    if turn.swap:
        pixels = pixels.swapaxes(0, 1)
    if turn.across:
        pixels = pixels[:, ::-1]
    if turn.down:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def upright_boxes(boxes: NDArray[np.float32], tag: int, size: tuple[int, int]) -> NDArray[np.float32]:
    """Turn boxes as `upright` turns the image that they lie in.

    Args:
        boxes: (N, 4), xmin, ymin, xmax, ymax in pixels of the stored image.
        tag: of the image.
        size: height and width of the stored image.

    Returns:
        (N, 4), the same in pixels of the upright image.
    """
    turn = _TURNS[tag]
    height, width = size
    left, top, right, bottom = boxes.T
    if turn.swap:
        left, top, right, bottom, height, width = top, left, bottom, right, width, height
    if turn.across:
        left, right = width - right, width - left
    if turn.down:
        top, bottom = height - bottom, height - top
    return np.stack([left, top, right, bottom], axis=1)
