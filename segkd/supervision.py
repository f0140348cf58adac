"""What labels teach: the task loss of the labelled images, weighted pixel by pixel where there is a weighting."""

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
    """What the student and a pixel weighting's teacher gave of the labelled images alone, or of one where none is."""

    output: Any
    target: Any
    """None where no label means anything to the task loss."""
    logits: list[Tensor | None]
    """The student's, the teacher's and its auxiliary ones: each None where it was not read."""
    index: Tensor | None = None
    """Numbers of the images, (N,), of ``count`` in all; None: all."""
    count: int = 0
    is_any: bool = True


class Supervision(nn.Module):
    """The half of a `segkd.adapter.Adapter` that takes the task loss, here of logits at label size."""

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
            loss: the task loss; unreduced, (B, H, W), where ``weights`` are given; None where models bring their own.
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
    """Return a task loss; where it is a mean over the labelled pixels, that over those of all processes.

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
        # A label that is no class is the loss's to refuse.
        counted = counted * of_classes[target.clamp(0, len(of_classes) - 1)]
    count = counted.sum()
    # Cross-entropy's mean over no pixel is 0 / 0: a batch that counts for nothing teaches nothing, it is no
    # NaN. Its gradient is NaN too where class weights are the reason, but 0 where all labels are ignored.
    target = torch.where(count > 0, target, ignored)
    return torch.where(count > 0, loss(logits, target), 0.0) * share_of_all(count)


def supervised(
    adapter: Supervision,
    task_loss: TaskLoss | None,
    pixels: PixelLoss | None,
    images: Labelled,
    weights: PixelWeights | None,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the parts of the task loss, whose sum it is, and the map of pixel weights (B, H, W), of all images.

    Where images have no label the loss is that of the others; where none has one it is 0.
    """
    if images.target is None:
        # 0 that depends on what the student returned: in a distributed run every parameter needs a gradient.
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
