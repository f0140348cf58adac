"""Pictures as uint8 RGB arrays (H, W, 3): a table of them with headings and a legend, values as colours, text."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from segkd.errors import SegkdError

Picture = NDArray[np.uint8]
Color = Sequence[int]

INK, PAPER = (20, 20, 20), (255, 255, 255)
"""What text is written in, and what lies behind it."""


def weight_map(weights: ArrayLike, limits: tuple[float, float] = (0.0, 1.0)) -> Picture:
    """Paint values (H, W), such as weights: dark purple at the lower limit, yellow at the upper, grey if not finite."""
    values = np.asarray(weights, dtype=np.float64)
    low, high = limits
    finite = np.isfinite(values)
    scaled = np.clip((np.where(finite, values, low) - low) / max(high - low, 1e-12), 0, 1)
    painted = cv2.applyColorMap((scaled * 255).round().astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return np.where(finite[..., None], painted, np.uint8(160))


def comparison_grid(
    rows: Sequence[Sequence[ArrayLike | None]],
    headers: Sequence[str],
    legend: Sequence[tuple[str, Color]] = (),
    tile: int = 360,
) -> Picture:
    """Arrange pictures in a table: a row per image, a column per kind of picture, and below it what the colours mean.

    Args:
        rows: of each row its pictures, uint8 (H, W, 3) of any size, or None for an empty place.
        headers: a heading per column.
        legend: names and colours, such as those of the classes.
        tile: width of a picture in pixels; its height follows from the first picture of its row.
    """
    if not rows or any(len(row) != len(headers) for row in rows):
        lengths = [len(row) for row in rows]
        raise SegkdError(f"comparison_grid takes rows of {len(headers)} pictures, one per header, got {lengths}")
    gap, head = 8, 48
    strips = [[None if picture is None else np.asarray(picture) for picture in row] for row in rows]
    shapes = [next((picture.shape for picture in strip if picture is not None), (1, 1)) for strip in strips]
    heights = [max(round(tile * shape[0] / shape[1]), 1) for shape in shapes]
    width = len(headers) * (tile + gap) + gap
    places, legend_height = _flow([name for name, _ in legend], width)
    canvas = Image.new("RGB", (width, head + sum(heights) + gap * len(rows) + legend_height + gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, header in enumerate(headers):
        at = (gap + column * (tile + gap) + tile // 2, head // 2)
        sizes = (size for size in range(30, 12, -2) if text_width(header, font(size)) <= tile)
        draw.text(at, header, fill=INK, font=font(next(sizes, 12)), anchor="mm")
    top = head
    for strip, height in zip(strips, heights, strict=True):
        for column, picture in enumerate(strip):
            if picture is not None:
                # Masks and errors keep their exact colours: a blend of two class colours may be a third class.
                scaled = cv2.resize(picture, (tile, height), interpolation=cv2.INTER_NEAREST_EXACT)
                canvas.paste(Image.fromarray(scaled), (gap + column * (tile + gap), top))
        top += height + gap
    for (name, color), (x, y) in zip(legend, places, strict=True):
        fill = (int(color[0]), int(color[1]), int(color[2]))
        draw.rectangle((x, top + y, x + 26, top + y + 26), fill=fill, outline=INK)
        draw.text((x + 34, top + y + 13), name, fill=INK, font=font(24), anchor="lm")
    return np.asarray(canvas)


def font(size: int) -> Any:
    """Return the font that everything is written in, ``size`` pixels high."""
    return ImageFont.load_default(size=size)


def text_width(text: str, face: Any) -> int:
    """Return how many pixels wide a text is in a font."""
    return int(np.ceil(face.getlength(text)))


def ink_on(color: ArrayLike) -> tuple[int, int, int]:
    """Return the colour of text that is legible on a ground of ``color`` (RGB): white on dark, else dark."""
    luminance = float(np.dot((np.asarray(color) / 255) ** 2.2, (0.2126, 0.7152, 0.0722)))
    # Black and white are equally legible on a ground of about 0.18.
    return PAPER if luminance < 0.2 else INK


def short_number(value: float) -> str:
    """Write a number in at most five characters, with three digits that matter."""
    if not np.isfinite(value):
        return "nan" if np.isnan(value) else "inf"
    magnitude = abs(value)
    if magnitude and (magnitude < 0.01 or magnitude >= 9999.5):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.2f}" if magnitude < 9.995 else f"{value:.1f}" if magnitude < 99.95 else f"{value:.0f}"


def _flow(names: Sequence[str], width: int) -> tuple[list[tuple[int, int]], int]:
    """Where the entries of a legend go, line by line, and how high they are together."""
    places, x, y = [], 8, 8
    for name in names:
        needed = 34 + text_width(name, font(24)) + 28
        if x > 8 and x + needed > width:
            x, y = 8, y + 38
        places.append((x, y))
        x += needed
    return places, y + 38 if names else 0
