"""What TensorBoard shows, as uint8 RGB arrays (H, W, 3): masks, errors, weights, and their arrangement with text."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

from segkd.errors import SegkdError

Picture = NDArray[np.uint8]
Color = Sequence[int]

#: What `colorize` paints where there is no class.
IGNORED_COLOR = (255, 255, 255)

#: What `error_map` paints. Vermilion, sky blue and black stay apart for colour-blind eyes.
ERROR_COLORS = {
    "right": (205, 205, 205),
    "student wrong": (213, 94, 0),
    "teacher wrong": (86, 180, 233),
    "both wrong": (0, 0, 0),
    "ignored": IGNORED_COLOR,
}

_INK, _PAPER = (20, 20, 20), (255, 255, 255)


def colorize(mask: ArrayLike, colors: Sequence[Color], ignore_index: int = 255) -> Picture:
    """Paint a mask in its classes' colours.

    Args:
        mask: (H, W) classes.
        colors: RGB in 0 to 255 per class.
        ignore_index: painted white, as is every value that is no class.
    """
    classes = np.asarray(mask)
    palette = np.array([*colors, IGNORED_COLOR], dtype=np.uint8)
    none = len(colors)
    known = (classes >= 0) & (classes < none) & (classes != ignore_index)
    return palette[np.where(known, classes, none)]


def overlay(
    image: ArrayLike, mask: ArrayLike, colors: Sequence[Color], alpha: float = 0.5, ignore_index: int = 255
) -> Picture:
    """Lay a coloured mask over an image; pixels without a class show the image alone.

    Args:
        image: uint8 RGB (H, W, 3).
        mask: (H, W) classes, of the same size.
        colors: RGB in 0 to 255 per class.
        alpha: opacity of the mask, 0 to 1.
        ignore_index: the label that is no class.

    Raises:
        SegkdError: sizes differ.
    """
    pixels, classes = np.asarray(image), np.asarray(mask)
    _same_size("overlay", pixels, classes)
    blended = (1 - alpha) * pixels + alpha * colorize(classes, colors, ignore_index)
    known = (classes >= 0) & (classes < len(colors)) & (classes != ignore_index)
    return np.where(known[..., None], blended.round(), pixels).astype(np.uint8)


def error_map(pred: ArrayLike, target: ArrayLike, ignore_index: int = 255, teacher: ArrayLike | None = None) -> Picture:
    """Paint where a prediction differs from the label, in `ERROR_COLORS`.

    Args:
        pred: (H, W) classes that the student predicts.
        target: (H, W) labels.
        ignore_index: the label that counts as neither right nor wrong.
        teacher: (H, W) classes that the teacher predicts; then errors of one, the other and both are told apart.

    Raises:
        SegkdError: sizes differ.
    """
    labels, student = np.asarray(target), np.asarray(pred)
    _same_size("error_map", student, labels)
    wrong = student != labels
    code = wrong.astype(np.intp)
    if teacher is not None:
        _same_size("error_map", np.asarray(teacher), labels)
        code += 2 * (np.asarray(teacher) != labels)
    code[labels == ignore_index] = 4
    return np.array(list(ERROR_COLORS.values()), dtype=np.uint8)[code]


def weight_map(weights: ArrayLike, limits: tuple[float, float] = (0.0, 1.0)) -> Picture:
    """Paint per-pixel weights (H, W): dark purple at the lower limit, yellow at the upper, grey where not finite."""
    values = np.asarray(weights, dtype=np.float64)
    low, high = limits
    finite = np.isfinite(values)
    scaled = np.clip((np.where(finite, values, low) - low) / max(high - low, 1e-12), 0, 1)
    painted = cv2.applyColorMap((scaled * 255).round().astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1]
    return np.where(finite[..., None], painted, np.uint8(160))


def heat_map(
    matrix: ArrayLike, labels: Sequence[str], title: str = "", limits: tuple[float, float] | None = None
) -> Picture:
    """Draw a matrix, such as the inter-class similarity of C classes: names, a colour bar and, if C <= 21, numbers.

    Args:
        matrix: (C, C).
        labels: C names, of rows and columns alike.
        title: written above.
        limits: values at the two ends of the colours, to compare two matrices; the matrix's own unless given.

    Raises:
        SegkdError: the matrix is not (C, C) for C labels.
    """
    values = np.asarray(matrix, dtype=np.float64)
    count = len(labels)
    if values.shape != (count, count):
        raise SegkdError(f"heat_map takes a ({count}, {count}) matrix for {count} labels, got {values.shape}")
    finite = values[np.isfinite(values)]
    low, high = limits or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    cell, label_font, number_font = (56, _font(20), _font(17)) if count <= 21 else (14, _font(13), None)
    names = [_shorten(name, 24) for name in labels]
    margin = max([_width(name, label_font) for name in names], default=0) + 20
    head = (52 if title else 12) + margin
    side = cell * count
    height = max(head + side + 24, head + 160)
    canvas = Image.new("RGB", (max(margin + side + 140, _width(title, _font(26)) + 24), height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((12, 12), title, fill=_INK, font=_font(26))

    painted = weight_map(values, (low, high))
    cells = np.repeat(np.repeat(painted, cell, axis=0), cell, axis=1)
    canvas.paste(Image.fromarray(cells), (margin, head))
    for i, name in enumerate(names):
        middle = head + i * cell + cell // 2
        draw.text((margin - 8, middle), name, fill=_INK, font=label_font, anchor="rm")
        upright = _upright(name, label_font)
        canvas.paste(upright, (margin + i * cell + (cell - upright.width) // 2, head - 8 - upright.height))
        for j in range(count) if number_font else ():
            ink = _PAPER if _luminance(painted[i, j]) < 0.2 else _INK
            at = (margin + j * cell + cell // 2, middle)
            draw.text(at, _number(values[i, j]), fill=ink, font=number_font, anchor="mm")

    length = max(side, 120)
    bar = weight_map(np.linspace(1, 0, length)[:, None].repeat(20, axis=1))
    left = margin + side + 24
    canvas.paste(Image.fromarray(bar), (left, head))
    for share in (0.0, 0.5, 1.0):
        at = (left + 28, head + round((1 - share) * (length - 1)))
        draw.text(at, _number(low + share * (high - low)), fill=_INK, font=_font(18), anchor="lm")
    return np.asarray(canvas)


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
        legend: names and colours, such as those of the classes and of `ERROR_COLORS`.
        tile: width of a picture in pixels; its height follows from the first picture of its row.

    Raises:
        SegkdError: no rows, or a row of another length than `headers`.
    """
    if not rows or any(len(row) != len(headers) for row in rows):
        lengths = [len(row) for row in rows]
        raise SegkdError(f"comparison_grid takes rows of {len(headers)} pictures, one per header, got {lengths}")
    gap, head = 8, 48
    strips = [[None if picture is None else np.asarray(picture) for picture in row] for row in rows]
    heights = [_height(strip, tile) for strip in strips]
    width = len(headers) * (tile + gap) + gap
    places, legend_height = _flow([name for name, _ in legend], width)
    canvas = Image.new("RGB", (width, head + sum(heights) + gap * len(rows) + legend_height + gap), _PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, header in enumerate(headers):
        at = (gap + column * (tile + gap) + tile // 2, head // 2)
        draw.text(at, header, fill=_INK, font=_fitting(header, tile, 30), anchor="mm")
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
        draw.rectangle((x, top + y, x + 26, top + y + 26), fill=fill, outline=_INK)
        draw.text((x + 34, top + y + 13), name, fill=_INK, font=_font(24), anchor="lm")
    return np.asarray(canvas)


def _flow(names: Sequence[str], width: int) -> tuple[list[tuple[int, int]], int]:
    """Where the entries of a legend go, line by line, and how high they are together."""
    places, x, y = [], 8, 8
    for name in names:
        needed = 34 + _width(name, _font(24)) + 28
        if x > 8 and x + needed > width:
            x, y = 8, y + 38
        places.append((x, y))
        x += needed
    return places, y + 38 if names else 0


def _height(strip: Sequence[NDArray[Any] | None], tile: int) -> int:
    shapes = [picture.shape for picture in strip if picture is not None]
    return max(round(tile * shapes[0][0] / shapes[0][1]), 1) if shapes else tile


def _font(size: int) -> Any:
    return ImageFont.load_default(size=size)


def _fitting(text: str, width: int, size: int) -> Any:
    """The largest font, up to `size`, in which `text` is no wider than `width`."""
    while size > 12 and _width(text, _font(size)) > width:
        size -= 2
    return _font(size)


def _width(text: str, font: Any) -> int:
    return int(np.ceil(font.getlength(text)))


def _upright(text: str, font: Any) -> Image.Image:
    """Text that reads from bottom to top."""
    ascent, descent = font.getmetrics()
    flat = Image.new("RGB", (max(_width(text, font), 1), ascent + descent), _PAPER)
    ImageDraw.Draw(flat).text((0, 0), text, fill=_INK, font=font)
    return flat.rotate(90, expand=True)


def _luminance(color: Picture) -> float:
    """Relative luminance in [0, 1]: black and white text are equally legible on a ground of about 0.18."""
    return float(np.dot((color / 255) ** 2.2, (0.2126, 0.7152, 0.0722)))


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 2] + ".."


def _number(value: float) -> str:
    """At most five characters, three digits that matter."""
    if not np.isfinite(value):
        return "nan" if np.isnan(value) else "inf"
    magnitude = abs(value)
    if magnitude and (magnitude < 0.01 or magnitude >= 9999.5):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.2f}" if magnitude < 9.995 else f"{value:.1f}" if magnitude < 99.95 else f"{value:.0f}"


def _same_size(name: str, first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape[:2] != second.shape[:2]:
        raise SegkdError(f"{name} takes two of one size, got {first.shape[:2]} and {second.shape[:2]}")
