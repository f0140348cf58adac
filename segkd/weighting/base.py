"""What a pixel weighting is: weights on the task loss of each pixel, from the logits of both models and the labels."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import class_ids, share_of_all


class PixelWeights(NamedTuple):
    """Weights on the task loss of each pixel.

    Attributes:
        map: (B, H, W) in [0, 1], 0 where ignored: what pictures show.
        scaled: (B, H, W), the map over its normaliser: the task loss is the sum of ``scaled`` times the pixels' losses.
            In a distributed run that trains, pixels are counted over all processes, so that each counts alike.
    """

    map: Tensor
    scaled: Tensor


class PixelWeighting(Protocol):
    """What ``Distiller(pixel_weighting=...)`` takes: a function will do.

    These attributes are read where there are any:

    * ``teacher``: the name of the teacher that it reads, where there are several; None: it reads none.
    * ``needs_auxiliary``: whether a teacher without auxiliary head is an error, and ``NO_AUXILIARY``, what that says.
    * ``ignore_index``: the label to leave out, where it is not the task loss's.
    """

    def __call__(
        self, student: Tensor, teacher: Tensor | None, auxiliary: Tensor | None, target: Tensor, progress: float
    ) -> PixelWeights | Tensor:
        """Return the weights of a batch, or their map (B, H, W) alone: it is divided by the number of valid pixels.

        Args:
            student: (B, C, h, w) logits of any size, without gradient.
            teacher: (B, C, h', w'), in the student's classes; None where it reads no teacher.
            auxiliary: the teacher's auxiliary head, or None where it has none.
            target: (B, H, W) labels.
            progress: of training, in [0, 1].
        """
        ...


def valid_labels(target: Tensor, classes: int, ignore_index: int | None) -> Tensor:
    """Return (B, H, W) bool: where a label is a class and not the one that is left out."""
    target = class_ids(target)
    valid = (target >= 0) & (target < classes)
    return valid if ignore_index is None else valid & (target != ignore_index)


def over_valid(weights: Tensor, valid: Tensor) -> PixelWeights:
    """Return the weights (B, H, W) where labels are valid, over the number of these."""
    if not isinstance(weights, Tensor) or weights.shape != valid.shape:
        shape = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
        raise SegkdError(f"pixel_weighting must give the labels' shape {tuple(valid.shape)}, got {shape}")
    weights = torch.where(valid, weights.detach() if weights.is_floating_point() else weights.float(), 0.0)
    count = valid.sum()
    return PixelWeights(weights, weights * (share_of_all(count) / count.clamp(min=1)))


class PixelLoss:
    """A task loss of single pixels, with a ``reduction`` attribute as torch's have, and what weighs them."""

    def __init__(self, task_loss: Any, weighting: PixelWeighting) -> None:
        if not hasattr(task_loss, "reduction"):
            raise SegkdError(
                f"pixel_weighting needs a task loss with a 'reduction' attribute, {type(task_loss).__name__} has none"
            )
        self.unreduced, self.weighting = copy.copy(task_loss), weighting
        self.unreduced.reduction = "none"
        self.ignore_index = getattr(weighting, "ignore_index", getattr(task_loss, "ignore_index", None))

    def check_auxiliary(self, auxiliary: Tensor | None) -> None:
        """Raise where the teacher has no auxiliary logits and the weighting needs them."""
        if auxiliary is None and getattr(self.weighting, "needs_auxiliary", False):
            says = "pixel_weighting needs a teacher with an auxiliary head"
            raise SegkdError(getattr(self.weighting, "NO_AUXILIARY", says))

    def weights(self, logits: Sequence[Tensor | None], target: Tensor, progress: float) -> PixelWeights:
        """Return the weights of a batch, of the student's, the teacher's and its auxiliary logits."""
        student, teacher, auxiliary = logits
        assert student is not None
        self.check_auxiliary(auxiliary)
        given = self.weighting(student.detach(), teacher, auxiliary, target, progress)
        if isinstance(given, PixelWeights):
            return given
        return over_valid(given, valid_labels(target, student.shape[1], self.ignore_index))
