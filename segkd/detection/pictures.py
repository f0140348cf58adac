"""What TensorBoard shows of detection, as uint8 RGB arrays (H, W, 3): boxes with their names, and FPN levels."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw
from torch import Tensor

from segkd.common.pictures import Color, Picture, comparison_grid, font, ink_on, short_number, weight_map
from segkd.errors import SegkdError

_LINE, _TEXT = 2, 14  # width of a box's line and height of its text in pixels, whatever the size of the image


def draw_boxes(
    image: ArrayLike,
    boxes: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    colors: Sequence[Color],
    scores: ArrayLike | None = None,
    tile: int = 640,
) -> Picture:
    """Draw boxes (N, 4), xyxy in the image's pixels, each with its name (labels 1 to K) and, if given, its score.

    The image is first brought to the width it will be looked at, so that lines and text are sharp there. Boxes of the
    highest scores are drawn last, over the others.
    """
    pixels = np.asarray(image)
    scale = tile / pixels.shape[1]
    size = (tile, max(round(pixels.shape[0] * scale), 1))
    canvas = Image.fromarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR))
    draw = ImageDraw.Draw(canvas)
    placed = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale
    classes = np.asarray(labels, dtype=np.int64) - 1
    order = range(len(placed)) if scores is None else np.argsort(np.asarray(scores), kind="stable").tolist()
    paints = [tuple(map(int, colors[number])) for number in classes]
    for index in order:
        left, top, right, bottom = placed[index].round().astype(int).tolist()
        # The box's last row and column are those before its maximum.
        draw.rectangle((left, top, max(right - 1, left), max(bottom - 1, top)), outline=paints[index], width=_LINE)
    for index in order:
        name = names[classes[index]]
        text = name if scores is None else f"{name} {float(np.asarray(scores)[index]):.2f}"
        _tag(draw, text, placed[index], paints[index], canvas.size)
    return np.asarray(canvas)


def box_row(
    image: ArrayLike,
    sides: Sequence[Mapping[str, Any] | None],
    names: Sequence[str],
    colors: Sequence[Color],
    min_score: float = 0.3,
    tile: int = 640,
) -> list[Picture | None]:
    """Return a row for `comparison_grid`: the image, then over it the boxes of each side, such as target and student.

    A side has ``boxes``, ``labels`` and, where there are any, ``scores``, of which those below ``min_score`` are left
    out; None leaves a place empty. The same ``tile`` for `comparison_grid` keeps text sharp.
    """
    none = np.zeros(0)
    row: list[Picture | None] = [draw_boxes(image, none, none, names, colors, tile=tile)]
    for side in sides:
        if side is None:
            row.append(None)
            continue
        boxes, labels = _array(side["boxes"]), _array(side["labels"])
        scores = _array(side["scores"]) if "scores" in side else None
        shown = np.ones(len(labels), dtype=bool) if scores is None else scores >= min_score
        kept = None if scores is None else scores[shown]
        row.append(draw_boxes(image, boxes[shown], labels[shown], names, colors, kept, tile))
    return row


def level_maps(features: Sequence[Tensor], strides: Sequence[int], tile: int = 300) -> Picture:
    """Draw the FPN levels of one image, maps (C, H, W) by their strides: the mean absolute activation at each place.

    Each level has colours of its own, dark at its smallest value and yellow at its largest; both stand above it.
    """
    shapes = [tuple(level.shape) for level in features]
    if not shapes or len(shapes) != len(strides) or any(len(shape) != 3 for shape in shapes):
        raise SegkdError(f"level_maps takes maps (C, H, W), one for each of the strides {list(strides)}, got {shapes}")
    maps, headers = [], []
    for level, stride in zip(features, strides, strict=True):
        values = level.detach().float().abs().mean(0).cpu().numpy()
        finite = values[np.isfinite(values)]
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
        maps.append(weight_map(values, (low, high)))
        headers.append(f"stride {stride}: {short_number(low)} to {short_number(high)}")
    return comparison_grid([maps], headers, tile=tile)


def _tag(draw: ImageDraw.ImageDraw, text: str, box: np.ndarray, color: tuple[int, ...], size: tuple[int, int]) -> None:
    """Write a box's name on a ground of its colour: above the box, or inside where there is no room above."""
    face = font(_TEXT)
    ascent, descent = face.getmetrics()
    width, height = int(np.ceil(face.getlength(text))) + 4, ascent + descent
    left = int(np.clip(round(box[0]), 0, max(size[0] - width, 0)))
    top = round(box[1]) - height
    top = int(np.clip(top if top >= 0 else round(box[1]), 0, max(size[1] - height, 0)))
    draw.rectangle((left, top, left + width - 1, top + height - 1), fill=color)
    draw.text((left + 2, top), text, fill=ink_on(color), font=face)


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().float().cpu() if isinstance(values, Tensor) else values)
