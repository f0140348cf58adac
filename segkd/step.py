"""The data of one batch, for a loss or a teacher that needs more than the values that are compared."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from segkd.errors import SegkdError

View = tuple[int, int]
"""Key of one view of an image, (epoch, index): the same key means the same crop, flip and colours."""


@dataclass
class Step:
    """One batch of a `segkd.Distiller`.

    A loss with an attribute ``needs_step = True`` gets it: ``loss(student, teacher, target, step)``. A teacher gets one
    whose images are those for its own model.

    Attributes:
        images: the distiller's input; in a teacher's step the input of its model.
        target: the labels as losses get them; None: no image has any.
        labelled: (B,) bool, which images have labels; None: all have, if there is a target.
        views: the key of each image's view, where the loader knows it; as a list, or int (B, 2).
        progress: training progress, in [0, 1].
        crops: float (B, 4), where in its whole image each view lies, for a teacher that has seen whole images: left,
            top, right and bottom, as shares of the image's width and height; left above right if it is mirrored.
    """

    images: Any
    target: Any = None
    labelled: Tensor | None = None
    views: "list[View] | Tensor | None" = None
    progress: float = 0.0
    crops: Tensor | None = None


def check_labelled(labelled: Any, images: Any, target: Any) -> None:
    """Raise a SegkdError unless ``labelled`` is a bool for each image, and there is a target."""
    count = len(images) if isinstance(images, (Tensor, list, tuple)) else None
    is_one_each = isinstance(labelled, Tensor) and labelled.dim() == 1 and len(labelled) == (count or len(labelled))
    if not is_one_each or labelled.dtype != torch.bool:
        given = f"{labelled.dtype} {tuple(labelled.shape)}" if isinstance(labelled, Tensor) else repr(labelled)
        raise SegkdError(f"labelled must be a bool tensor ({'B' if count is None else count},), got {given}")
    if target is None:
        raise SegkdError("labelled says which images have labels, but there is no target")
