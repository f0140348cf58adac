"""From files to arrays: images as RGB, and an error that names the file for everything else."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segkd.common.orientation import UPRIGHT, orientation, upright
from segkd.common.paths import check_regular, same_name
from segkd.common.pixels import MAX_PIXELS, check_pixels, conversions, open_file
from segkd.errors import SegkdError

#: PIL's modes of images with at most 8 bits a channel, which `convert("RGB")` does not distort.
COLOUR_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


class Opened(NamedTuple):
    """A file with all its pixels, as PIL has them."""

    image: Image.Image
    tag: int
    """The file's orientation tag, see `segkd.common.orientation`."""
    left: int
    """What of it is to be applied to ``image`` still: the tag, or 1 where PIL has applied it."""
    converted: list[str]
    """What 8-bit RGB does not hold of it, see `segkd.common.pixels.conversions`."""


class Photo(NamedTuple):
    """An image, upright."""

    pixels: np.ndarray
    """uint8 (H, W, 3), RGB."""
    tag: int
    """The orientation tag that they were turned by: masks and boxes may have none."""
    converted: list[str]
    """What was lost in making them 8-bit RGB, see `segkd.common.pixels.conversions`."""


def read_photo(path: Path, max_pixels: int = MAX_PIXELS) -> Photo:
    """Read an image upright, a camera's orientation tag applied; of 16-bit RGB the upper eight bits, without alpha.

    Raises:
        SegkdError: a missing, broken or unknown file, more than 8 bits a channel, or more than ``max_pixels`` pixels.
    """
    image, tag, left, converted = open_image(path, "image", max_pixels)
    if image.mode not in COLOUR_MODES:
        raise SegkdError(f"image {path} has mode {image.mode!r}; expected 8 bits a channel")
    return Photo(upright(np.asarray(image.convert("RGB")), left), tag, converted)


def open_image(path: Path, kind: str, max_pixels: int = MAX_PIXELS) -> Opened:
    """Open a file with all its pixels; errors call it by its ``kind``, such as ``"mask"``."""
    check_regular(path, kind)
    try:
        with open_file(path) as image:
            check_pixels(image, path, kind, max_pixels)
            converted = conversions(image)
            tag = orientation(image)
            image.load()  # which turns TIFFs and takes their tag away; some PNGs show their tag only now
            left = orientation(image)
            return Opened(image, left if tag == UPRIGHT else tag, left, converted)
    except FileNotFoundError:
        raise SegkdError(f"no {kind} {path}") from None
    # PIL reports a broken file as any of these, depending on where it breaks.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise SegkdError(f"cannot read {kind} {path}: {' '.join(str(error).split())}") from None


def read_stems(path: Path) -> list[str]:
    """Read a list of one or more file stems, one a line, each once and in Unicode's NFC; blank lines are left out."""
    check_regular(path, "list")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()  # some editors put a mark before the text
    except FileNotFoundError:
        raise SegkdError(f"no list {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SegkdError(f"cannot read list {path}: {error}") from None
    stems = list(dict.fromkeys(same_name(line.strip()) for line in lines if line.strip()))
    if not stems:
        raise SegkdError(f"list {path} is empty: it names no image of the split")
    return stems


def refuse(problems: list[str]) -> None:
    """Raise the first of the problems as a SegkdError that says how many more there are; none raise nothing."""
    if problems:
        more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise SegkdError(problems[0] + more)


def rgb_pixels(image: np.ndarray | Image.Image) -> np.ndarray:
    """Return an image's pixels, uint8 (H, W, 3) RGB; one of PIL's is turned upright if it has an orientation tag.

    Raises:
        SegkdError: an array of another shape or type or without pixels, or a PIL image with more than 8 bits a channel.
    """
    if isinstance(image, Image.Image):
        if image.mode not in COLOUR_MODES:
            raise SegkdError(f"predict takes a PIL image of 8 bits a channel, such as RGB, got mode {image.mode!r}")
        image.load()  # before its tag is looked at, see `open_image`
        image = upright(np.asarray(image.convert("RGB")), orientation(image))
    given = f"{image.dtype} {tuple(image.shape)}" if hasattr(image, "dtype") else type(image).__name__
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape[2:] != (3,) or not image.size:
        raise SegkdError(f"predict takes a PIL image or RGB uint8 (H, W, 3), got {given}")
    return image
