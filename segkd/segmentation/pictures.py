"""What TensorBoard shows of segmentation, as uint8 RGB arrays (H, W, 3): masks, errors, matrices of the classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from segkd.common.pictures import INK, PAPER, Color, Picture, font, ink_on, short_number, text_width, weight_map
from segkd.errors import SegkdError

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


def colorize(mask: ArrayLike, colors: Sequence[Color], ignore_index: int = 255) -> Picture:
    """Paint a mask (H, W) in its classes' colours, RGB in 0 to 255; white what is ignored or no class."""
    classes = np.asarray(mask)
    palette = np.array([*colors, IGNORED_COLOR], dtype=np.uint8)
    return palette[np.where(_is_class(classes, len(colors), ignore_index), classes, len(colors))]


def _is_class(mask: NDArray[Any], count: int, ignore_index: int) -> NDArray[np.bool_]:
    return (mask >= 0) & (mask < count) & (mask != ignore_index)


def overlay(
    image: ArrayLike, mask: ArrayLike, colors: Sequence[Color], alpha: float = 0.5, ignore_index: int = 255
) -> Picture:
    """Lay a coloured mask (H, W), of this opacity, over an image (H, W, 3); pixels without a class show that alone."""
    pixels, classes = np.asarray(image), np.asarray(mask)
    _same_size("overlay", pixels, classes)
    laid = np.empty(pixels.shape, dtype=np.uint8)
    for top in range(0, len(pixels), 256):  # as float64 a large image would fill the memory
        rows = slice(top, top + 256)
        of_rows, below = classes[rows], pixels[rows]
        blended = (1 - alpha) * below + alpha * colorize(of_rows, colors, ignore_index)
        known = _is_class(of_rows, len(colors), ignore_index)
        laid[rows] = np.where(known[..., None], blended.round(), below)
    return laid


def error_map(pred: ArrayLike, target: ArrayLike, ignore_index: int = 255, teacher: ArrayLike | None = None) -> Picture:
    """Paint where predicted classes (H, W) differ from labels, in `ERROR_COLORS`, beside where a teacher's do."""
    labels, student = np.asarray(target), np.asarray(pred)
    _same_size("error_map", student, labels)
    wrong = student != labels
    code = wrong.astype(np.intp)
    if teacher is not None:
        _same_size("error_map", np.asarray(teacher), labels)
        code += 2 * (np.asarray(teacher) != labels)
    code[labels == ignore_index] = 4
    return np.array(list(ERROR_COLORS.values()), dtype=np.uint8)[code]


def heat_map(
    matrix: ArrayLike, labels: Sequence[str], title: str = "", limits: tuple[float, float] | None = None
) -> Picture:
    """Draw a (C, C) matrix, such as the inter-class similarity: names, a colour bar and, if C <= 21, numbers.

    ``limits`` are values at the two ends of the colours, to compare two matrices; the matrix's own unless given.
    """
    values = np.asarray(matrix, dtype=np.float64)
    count = len(labels)
    if values.shape != (count, count):
        raise SegkdError(f"heat_map takes a ({count}, {count}) matrix for {count} labels, got {values.shape}")
    finite = values[np.isfinite(values)]
    low, high = limits or ((float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0))
    cell, label_font, number_font = (56, font(20), font(17)) if count <= 21 else (14, font(13), None)
    names = [name if len(name) <= 24 else f"{name[:22]}.." for name in labels]
    margin = max([text_width(name, label_font) for name in names], default=0) + 20
    head = (52 if title else 12) + margin
    side = cell * count
    height = max(head + side + 24, head + 160)
    canvas = Image.new("RGB", (max(margin + side + 140, text_width(title, font(26)) + 24), height), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((12, 12), title, fill=INK, font=font(26))

    painted = weight_map(values, (low, high))
    cells = np.repeat(np.repeat(painted, cell, axis=0), cell, axis=1)
    canvas.paste(Image.fromarray(cells), (margin, head))
    for i, name in enumerate(names):
        middle = head + i * cell + cell // 2
        draw.text((margin - 8, middle), name, fill=INK, font=label_font, anchor="rm")
        upright = _upright(name, label_font)
        canvas.paste(upright, (margin + i * cell + (cell - upright.width) // 2, head - 8 - upright.height))
        for j in range(count) if number_font else ():
            at = (margin + j * cell + cell // 2, middle)
            draw.text(at, short_number(values[i, j]), fill=ink_on(painted[i, j]), font=number_font, anchor="mm")

    length = max(side, 120)
    bar = weight_map(np.linspace(1, 0, length)[:, None].repeat(20, axis=1))
    left = margin + side + 24
    canvas.paste(Image.fromarray(bar), (left, head))
    for share in (0.0, 0.5, 1.0):
        at = (left + 28, head + round((1 - share) * (length - 1)))
        draw.text(at, short_number(low + share * (high - low)), fill=INK, font=font(18), anchor="lm")
    return np.asarray(canvas)


def _upright(text: str, face: Any) -> Image.Image:
    """Text that reads from bottom to top."""
    ascent, descent = face.getmetrics()
    flat = Image.new("RGB", (max(text_width(text, face), 1), ascent + descent), PAPER)
    ImageDraw.Draw(flat).text((0, 0), text, fill=INK, font=face)
    return flat.rotate(90, expand=True)


def _same_size(name: str, first: NDArray[Any], second: NDArray[Any]) -> None:
    if first.shape[:2] != second.shape[:2]:
        raise SegkdError(f"{name} takes two of one size, got {first.shape[:2]} and {second.shape[:2]}")
