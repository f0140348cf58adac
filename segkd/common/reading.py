"""From files to arrays: images as RGB, and an error that names the file for everything else."""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from segkd.common.orientation import UPRIGHT, orientation, upright
from segkd.common.paths import check_regular, same_name
from segkd.errors import SegkdError

MAX_PIXELS = 1_000_000_000
"""How many pixels an image may have, unless a config or flag says otherwise."""

#: PIL's modes of images with at most 8 bits a channel, which `convert("RGB")` does not distort.
COLOUR_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}

DEEP = "16 bits a channel, scaled to 8 (65535 is white)"
ALPHA = "an alpha channel, left out: transparent pixels count as opaque"

_LOCK = threading.Lock()


class Opened(NamedTuple):
    """A file with all its pixels, as PIL has them."""

    image: Image.Image
    tag: int
    """The file's orientation tag, see `segkd.common.orientation`."""
    left: int
    """What of it is to be applied to ``image`` still: the tag, or 1 where PIL has applied it."""
    converted: list[str]
    """What 8-bit RGB does not hold of it, see `conversions`."""


class Photo(NamedTuple):
    """An image, upright."""

    pixels: np.ndarray
    """uint8 (H, W, 3), RGB."""
    tag: int
    """The orientation tag that they were turned by: masks and boxes may have none."""
    converted: list[str]
    """What was lost in making them 8-bit RGB, see `conversions`."""


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
    with opening(path, kind) as image:
        pixels = image.width * image.height
        if pixels > max_pixels:  # so many may be meant to fill memory
            raise SegkdError(
                f"{kind} {path} has {pixels} pixels ({image.width}x{image.height}), more than "
                f"data.max_pixels={max_pixels} allows (in predict --max-pixels)"
            )
        converted = conversions(image)
        tag = orientation(image)
        image.load()  # which turns TIFFs and takes their tag away; some PNGs show their tag only now
        left = orientation(image)
        return Opened(image, left if tag == UPRIGHT else tag, left, converted)


@contextlib.contextmanager
def opening(path: Path, kind: str) -> Iterator[Image.Image]:
    """Give an image, of any size and without its pixels; errors within this call the file by its ``kind``."""
    check_regular(path, kind)
    try:
        # PIL's limit is one for the whole process, which others may rely on: it is off for no longer than this.
        with _LOCK:
            before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(path)
            finally:
                Image.MAX_IMAGE_PIXELS = before
        with image:
            yield image
    except FileNotFoundError:
        raise SegkdError(f"no {kind} {path}") from None
    except SegkdError:
        raise
    # PIL reports a broken file as any of these, depending on where it breaks.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise SegkdError(f"cannot read {kind} {path}: {' '.join(str(error).split())}") from None


def conversions(image: Image.Image) -> list[str]:
    """Return what of an image, whose pixels are not read yet, 8-bit RGB does not hold: `DEEP`, `ALPHA`, or nothing."""
    found = []
    # What the decoder is told: PIL itself calls an image of 16 bits a channel RGB; 65535 is the white of a PPM.
    if any(sign in str(part[3]) for part in getattr(image, "tile", ()) for sign in (";16", "65535")):
        found.append(DEEP)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        found.append(ALPHA)
    return found


def conversion_lines(converted: Iterable[tuple[Path, Iterable[str]]]) -> list[str]:
    """Say how many images have what `conversions` finds, and which is the first: one line each."""
    files: dict[str, list[Path]] = {}
    for path, found in converted:
        for what in found:
            files.setdefault(what, []).append(path)
    return [
        f"{len(paths)} image{'s have' if len(paths) > 1 else ' has'} {what}; the first is {paths[0]}"
        for what, paths in files.items()
    ]


def look(paths: Iterable[Path]) -> list[str]:
    """Return `conversion_lines` of files, without reading their pixels; those that cannot be opened are passed over."""
    converted = []
    for path in paths:
        with contextlib.suppress(SegkdError), opening(path, "image") as image:
            converted.append((path, conversions(image)))
    return conversion_lines(converted)


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
