"""The task loss of the labelled images, weighted pixel by pixel where there is a pixel weighting."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses._common import resize, share_of_all
from segkd.outputs import read_auxiliary, read_logits, tensors_of
from segkd.weighting.base import PixelLoss, PixelWeights

TaskLoss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Labelled:
    """What student and pixel weighting's teacher gave for the labelled images; for one image where none is labelled."""

    output: Any
    target: Any
    """None where the task loss can use none of the labels."""
    logits: list[Tensor | None]
    """The student's, the teacher's and the teacher's auxiliary ones: each None where it was not read."""
    index: Tensor | None = None
    """Indices (N,) of these images, of ``count`` in all; None: all."""
    count: int = 0
    is_any: bool = True


class Supervision(nn.Module):
    """The part of `segkd.adapter.Adapter` that computes the task loss, here of logits at label size."""

    auxiliary_weight = 0.0

    def label_size(self, target: Tensor) -> tuple[int, int]:
        """Return (H, W) of the labels."""
        return target.shape[-2], target.shape[-1]

    def task_loss(
        self, output: Any, target: Any, loss: TaskLoss | None, weights: Tensor | None
    ) -> Tensor | dict[str, Tensor]:
        """Return the student's task loss at label size: a scalar, or named parts whose sum it is.

        Args:
            output: what the student returned.
            target: (B, H, W) labels.
            loss: the task loss; with ``weights`` it is unreduced, (B, H, W). None where models bring their own.
            weights: (B, H, W) normalised pixel weights, or None.
        """
        assert loss is not None
        logits = read_logits(output)
        if target.dim() != 3 or target.shape[0] != logits.shape[0]:
            raise SegkdError(f"labels must be (B, H, W) with B={logits.shape[0]}, got {tuple(target.shape)}")
        logits = resize(logits, self.label_size(target))
        if weights is None:
            return mean_over_labelled(loss, logits, target)
        value = loss(logits, target)
        if value.shape != weights.shape:
            raise SegkdError(
                f"pixel_weighting needs the task loss of each pixel, {tuple(weights.shape)}: with reduction='none' "
                f"{type(loss).__name__} gave {tuple(value.shape)}"
            )
        return (value * weights).sum()

    def auxiliary_loss(self, output: Any, target: Any, loss: TaskLoss | None) -> Tensor | None:
        """Return the task loss of the student's auxiliary logits times its weight, or None when there are none."""
        auxiliary = read_auxiliary(output) if self.auxiliary_weight else None
        if auxiliary is None:
            return None
        value = self.task_loss(auxiliary, target, loss, None)
        assert isinstance(value, Tensor)
        return self.auxiliary_weight * value


def mean_over_labelled(loss: Any, logits: Tensor, target: Tensor) -> Tensor:
    """Return a task loss; a mean over labelled pixels is taken over those of all processes.

    Args:
        loss: a mean over the pixels that it does not ignore, as torch's losses are: its ``reduction`` is ``"mean"`` and
            it has an ``ignore_index``. Any other is taken as it is.
        logits: (B, C, H, W) at label size.
        target: (B, H, W) labels.
    """
    ignored, of_classes = getattr(loss, "ignore_index", None), getattr(loss, "weight", None)
    if not isinstance(ignored, int) or getattr(loss, "reduction", "") != "mean":
        value: Tensor = loss(logits, target)
        return value
    counted = target != ignored
    if isinstance(of_classes, Tensor) and of_classes.dim() == 1:
        # An invalid label is clamped here alone: the loss itself refuses it.
        counted = counted * of_classes[target.clamp(0, len(of_classes) - 1)]
    count = counted.sum()
    # Cross-entropy's mean over no pixel is 0 / 0: such a batch gives 0 instead of NaN. Its gradient is NaN too where
    # class weights of 0 are the reason, but 0 where all labels are ignored.
    target = torch.where(count > 0, target, ignored)
    return torch.where(count > 0, loss(logits, target), 0.0) * share_of_all(count)


def supervised(
    adapter: Supervision,
    task_loss: TaskLoss | None,
    pixels: PixelLoss | None,
    images: Labelled,
    weights: PixelWeights | None,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the parts that add up to the task loss, and the pixel weights (B, H, W) of all images, or None.

    The loss is that of the images with labels, and 0 where there are none; pixel weights of the others are 0.
    """
    if images.target is None:
        # A 0 that depends on the student's output: in a distributed run every parameter needs a gradient.
        of_objects = [getattr(images.output, name, None) for name in ("logits", "aux_logits")]
        ends = [x.flatten()[:0].float().sum() for x in tensors_of(images.output) or tensors_of(of_objects)]
        return {"main": torch.stack(ends).sum() if ends else torch.zeros(())}, None
    loss, scaled = (task_loss, None) if pixels is None or weights is None else (pixels.unreduced, weights.scaled)
    value = adapter.task_loss(images.output, images.target, loss, scaled)
    parts = {"main": value} if isinstance(value, Tensor) else value
    for part in parts.values():
        if part.numel() != 1:
            raise SegkdError(f"the task loss must return one value, as with reduction='mean', got {tuple(part.shape)}")
    auxiliary = adapter.auxiliary_loss(images.output, images.target, task_loss)
    parts = parts if auxiliary is None else {**parts, "auxiliary": auxiliary}
    shown = None if weights is None else weights.map
    if shown is not None and images.index is not None:
        of_all = shown.new_zeros(images.count, *shown.shape[1:])
        shown = of_all.index_copy(0, images.index.to(shown.device), shown)
    return (parts if images.is_any else {name: 0 * part for name, part in parts.items()}), shown
