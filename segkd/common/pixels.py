"""What is known of an image before its pixels are read: how many there are, and what 8-bit RGB does not hold."""

import contextlib
import threading
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from segkd.common.paths import check_regular
from segkd.errors import SegkdError

MAX_PIXELS = 1_000_000_000
"""How many pixels an image may have, unless a config or flag says otherwise."""

DEEP = "16 bits a channel, scaled to 8 (65535 is white)"
ALPHA = "an alpha channel, left out: transparent pixels count as opaque"

_LOCK = threading.Lock()


def open_file(path: Path) -> Image.Image:
    """Open an image without its pixels, of any size, with PIL's errors: `check_pixels` asks for the limit instead."""
    check_regular(path, "image")
    # PIL's limit is one for the whole process, which others may rely on: it is off for no longer than this.
    with _LOCK:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
        finally:
            Image.MAX_IMAGE_PIXELS = before


def check_pixels(image: Image.Image, path: Path, kind: str, max_pixels: int) -> None:
    """Raise a SegkdError where an image, its pixels not read yet, is so large that it may be meant to fill memory."""
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise SegkdError(
            f"{kind} {path} has {pixels} pixels ({image.width}x{image.height}), more than "
            f"data.max_pixels={max_pixels} allows (in predict --max-pixels)"
        )


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
        with contextlib.suppress(OSError, SyntaxError, ValueError), open_file(path) as image:
            converted.append((path, conversions(image)))
    return conversion_lines(converted)
