"""Masks that show each class in its colour: from colours to class ids."""

from pathlib import Path

import numpy as np

from segkd.errors import SegkdError
from segkd.segmentation.datasets import INVALID, DatasetSpec


def ids_of_colors(path: Path, colors: np.ndarray, spec: DatasetSpec) -> np.ndarray:
    """Return class ids, uint8 (H, W), of a mask's RGB colours, uint8 (H, W, 3).

    Raises:
        SegkdError: a colour that is of no class and not among ``ignore_colors``, or of two classes.
    """
    twice = spec.shared_color
    if twice:
        raise SegkdError(f"mask {path} has colours, but {twice}")
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    ids = spec.color_lookup[red << 16 | green << 8 | blue]
    if ids.min() == INVALID:
        raise SegkdError(f"mask {path}: {_unknown(colors[ids == INVALID], spec)}")
    return ids.astype(np.uint8)


def _unknown(colors: np.ndarray, spec: DatasetSpec) -> str:
    values, counts = np.unique(colors, axis=0, return_counts=True)
    common = counts.argmax()
    text = (
        f"{counts[common]} pixels have the colour {values[common].tolist()}, which is of no class of data set "
        f"{spec.name!r} and not in its ignore_colors"
    )
    if len(values) > 1:
        text += (
            f", as are {counts.sum() - counts[common]} pixels of {len(values) - 1} other colours "
            "(edges that were smoothed, by drawing, resizing or a lossy format?)"
        )
    if (values == values[:, :1]).all():
        text += "; all are grey: if they are ids, say masks: ids"
    return text
