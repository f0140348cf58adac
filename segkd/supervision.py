"""What labels teach: the task loss of the labelled images, and the weights of its pixels."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from segkd.adapter import Adapter
from segkd.errors import SegkdError
from segkd.step import Step
from segkd.taps import tensors_of
from segkd.weighting.base import PixelWeighting, PixelWeights, over_valid, valid_labels

TaskLoss = Callable[[Tensor, Tensor], Tensor]


class PixelLoss:
    """A task loss of single pixels, and what weighs them.

    Args:
        task_loss: with a ``reduction`` attribute, as torch's have.
        weighting: see `PixelWeighting`.

    Raises:
        SegkdError: the task loss has no such attribute.
    """

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

    def weights(
        self, student: Tensor, teacher: Tensor | None, auxiliary: Tensor | None, target: Tensor, progress: float
    ) -> PixelWeights:
        """Return the weights of a batch, see `PixelWeighting`."""
        self.check_auxiliary(auxiliary)
        given = self.weighting(student.detach(), teacher, auxiliary, target, progress)
        if isinstance(given, PixelWeights):
            return given
        return over_valid(given, valid_labels(target, student.shape[1], self.ignore_index))


def supervised(
    adapter: Adapter,
    task_loss: TaskLoss | None,
    pixels: PixelLoss | None,
    step: Step,
    student: Mapping[str, Any],
    teacher: Mapping[str, Any],
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the parts of the task loss, whose sum it is, and the map of pixel weights (B, H, W).

    Where images have no label the loss is that of the others; where none has one it is 0.

    Args:
        adapter: of the distiller.
        task_loss: of the distiller.
        pixels: None without pixel weighting.
        step: the batch.
        student: what was read of the student; its logits too with pixel weighting.
        teacher: likewise of the teacher that the weighting reads; empty without.
    """
    output, target = student[""], step.target
    logits = [student.get("logits"), teacher.get("logits"), teacher.get("aux")]
    index, is_any = None, True
    if step.labelled is not None:
        index = step.labelled.nonzero()[:, 0]
        is_any = len(index) > 0
        ignored = getattr(task_loss, "ignore_index", None)
        if not is_any and adapter.needs_task_loss and not isinstance(ignored, int):
            # No label of this batch means anything to this loss. What follows the logits gets a gradient all the same.
            return {"main": sum_of_nothing(output)}, None
        # One image stands for none: its labels are ignored, and every process counts what all of them count.
        index = index if is_any else torch.zeros_like(step.labelled[:1], dtype=torch.long)
        if len(index) < len(step.labelled):
            output, target = adapter.select(output, target, index)
            logits = [None if x is None else x[index] for x in logits]
        else:
            index = None

    loss, scaled, shown = task_loss, None, None
    if pixels is not None:
        s, t, auxiliary = logits
        assert s is not None
        weights = pixels.weights(s, t, auxiliary, target, step.progress)
        loss, scaled, shown = pixels.unreduced, weights.scaled, weights.map
        if index is not None:
            of_all = shown.new_zeros(len(step.labelled), *shown.shape[1:])  # type: ignore[arg-type]
            shown = of_all.index_copy(0, index.to(shown.device), shown)
    value = adapter.task_loss(output, target, loss, scaled)
    parts = {"main": value} if isinstance(value, Tensor) else value
    auxiliary = adapter.auxiliary_loss(output, target, task_loss)
    parts = parts if auxiliary is None else {**parts, "auxiliary": auxiliary}
    return (parts if is_any else {name: 0 * part for name, part in parts.items()}), shown


def sum_of_nothing(output: Any) -> Tensor:
    """Return 0 that depends on a model's output: in a distributed run every parameter needs a gradient."""
    tensors = tensors_of(output) or tensors_of([getattr(output, name, None) for name in ("logits", "aux_logits")])
    return torch.stack([x.flatten()[:0].float().sum() for x in tensors]).sum() if tensors else torch.zeros(())


def check_labelled(labelled: Any, images: Any, target: Any) -> None:
    """Raise unless this says of each image whether it has a label, and there are labels."""
    count = len(images) if isinstance(images, (Tensor, list, tuple)) else None
    is_one_each = isinstance(labelled, Tensor) and labelled.dim() == 1 and len(labelled) == (count or len(labelled))
    if not is_one_each or labelled.dtype != torch.bool:
        given = f"{labelled.dtype} {tuple(labelled.shape)}" if isinstance(labelled, Tensor) else repr(labelled)
        raise SegkdError(f"labelled must be a bool tensor ({'B' if count is None else count},), got {given}")
    if target is None:
        raise SegkdError("labelled says which images have labels, but there is no target")
