"""What every loss needs: full precision, shape checks that name the shapes, and labels at feature size."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.errors import SegkdError, is_number
from segkd.losses._rows import over_processes

UNKNOWN = -1e4
"""What a teacher's logits have for a class that it does not know: finite, so that maps can be resized."""


@contextmanager
def full_precision(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the tensors in float32 (float64 stays) with autocast off, see also `with_contiguous_gradient`.

    Matrix products run in bfloat16 under autocast, and a KL of logits with a gap of 60000 does not survive that.
    """
    with torch.autocast(device_type=tensors[0].device.type, enabled=False):
        yield tuple(with_contiguous_gradient(t if t.dtype == torch.float64 else t.float()) for t in tensors)


def with_contiguous_gradient(x: Tensor) -> Tensor:
    """Return the tensor; what comes back to it as its gradient is made contiguous.

    Of a single image, losses that compare by position or cell return gradients whose strides torch's batch norm
    misreads on the CPU (torch 2.14): it then passes wrong ones on, silently.
    """
    y: Tensor = _ContiguousGradient.apply(x) if x.requires_grad and len(x) == 1 else x
    return y


class _ContiguousGradient(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous()


def check_pair(name: str, student: Tensor, teacher: Tensor) -> None:
    """Raise unless both tensors are (B, C, H, W) and of the same shape."""
    if student.dim() != 4 or student.shape != teacher.shape:
        raise SegkdError(
            f"{name} expects student and teacher of one shape (B, C, H, W), got student {tuple(student.shape)} "
            f"and teacher {tuple(teacher.shape)}"
        )


def check_maps(name: str, student: Tensor, teacher: Tensor, any_size: bool = False) -> None:
    """Raise unless both are maps (B, C, H, W) of as many images, and of one size; their channels may differ."""
    sides = [(x.dim(), x.shape[:1], None if any_size else x.shape[2:]) for x in (student, teacher)]
    if student.dim() != 4 or sides[0] != sides[1]:
        raise SegkdError(
            f"{name} expects student and teacher (B, C, H, W) of the same B{'' if any_size else ', H and W'}, got "
            f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"
        )


def check_temperature(temperature: float) -> None:
    """Raise unless the temperature is positive."""
    if not (is_number(temperature) and temperature > 0):
        raise SegkdError(f"temperature must be above 0, got {temperature!r}")


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature; at 1, the usual case, without a copy of the map."""
    return logits if temperature == 1 else logits / temperature


def resize(x: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Resize (B, C, h, w) bilinearly to ``size``; a tensor that has this size is returned as it is."""
    if x.shape[-2:] == torch.Size(size):
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def unit(x: Tensor, dim: int | tuple[int, ...], least: float = 1e-12) -> Tensor:
    """Divide vectors along ``dim`` by their L2 norm, or ``least``; those of norm 0 pass no gradient."""
    square = x.square().sum(dim, keepdim=True)
    exists = square > 0
    norm = torch.where(exists, square, 1.0).sqrt().clamp_min(least)
    # Divided, a single number becomes 1 exactly; by infinity, zeros stay zeros, and so does their gradient.
    return x / torch.where(exists, norm, torch.inf)


def pooled(x: Tensor, pool: int) -> Tensor:
    """Return the averages of (B, C, h, w) over squares of ``pool`` pixels, the last ones cut at the border."""
    # Nothing is padded here. With count_include_pad torch.compile's gradient at the border is wrong (torch 2.14).
    return x if pool == 1 else F.avg_pool2d(x, pool, ceil_mode=True, count_include_pad=False)


def class_ids(target: Tensor) -> Tensor:
    """Return labels of any integer type as int64; other tensors as they are.

    Cross-entropy takes few other types, and beside a uint8 a number such as -100 or 300 counts as its last eight bits.
    """
    is_other = target.dtype.is_floating_point or target.dtype.is_complex
    return target if is_other else target.long()


def resize_labels(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize labels (B, H, W) to ``size`` by nearest neighbour."""
    if target.shape[-2:] == torch.Size(size):
        return target
    return F.interpolate(target[:, None].float(), size=size, mode="nearest")[:, 0].to(target.dtype)


def labels_like(target: Tensor | None, like: Tensor, name: str = "the loss", resized: bool = True) -> Tensor:
    """Return labels (B, H, W) of any integer type as int64 at the size of ``like`` (B, C, h, w) or, else, their own."""
    if target is None:
        raise SegkdError(f"{name} compares by class: it needs labels, and this batch has none")
    if target.dim() != 3 or target.shape[0] != like.shape[0]:
        raise SegkdError(f"labels must be (B, H, W) with B={like.shape[0]}, got {tuple(target.shape)}")
    labels = class_ids(target)
    if labels.dtype != torch.int64:
        raise SegkdError(f"labels must be whole numbers, of an integer type, got {target.dtype}")
    return resize_labels(labels, (like.shape[-2], like.shape[-1])) if resized else labels


def valid_pixels(target: Tensor | None, ignore_index: int | None, like: Tensor) -> Tensor | None:
    """Return (B, h, w) bool at the size of ``like`` (B, C, h, w), False where ignored; None to keep all pixels."""
    if target is None or ignore_index is None:
        return None
    return labels_like(target, like) != ignore_index


def share_of_all(count: Tensor) -> Tensor:
    """Return what a mean over ``count`` pixels is multiplied with, so that DDP's mean over processes is that of all.

    1 in a run of one process. Otherwise this process's count over the mean of all: a process with few labelled pixels
    then counts for as much as they are, as in one process with all images. Every process must call it. Where no
    gradient is wanted it is 1: what one process alone looks at waits for no other.

    Args:
        count: a scalar, at least 0: how many pixels of this process the mean is over, or the sum of their weights.
    """
    per_process = not torch.is_grad_enabled()
    mean = over_processes(count, per_process)
    return torch.where(mean > 0, count / mean, 1.0)


def pixel_mean(values: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of values (B, h, w) over the valid pixels of all processes, see `share_of_all`; 0 of none."""
    if valid is None:
        return values.mean()
    count = valid.sum()
    return (values * valid).sum() / count.clamp(min=1) * share_of_all(count)


def masked_log_softmax(x: Tensor, valid: Tensor | None, dim: int) -> Tensor:
    """Return the log-softmax along ``dim`` over the valid entries, 0 on the others.

    Rows without a valid entry come out as zeros, never NaN, and pass no gradient.
    """
    if valid is None:
        return F.log_softmax(x, dim=dim)
    # Arithmetic rather than masked_fill, which is several times slower; 1e30 rather than infinity, which would make a
    # row without valid entries NaN.
    keep = valid.to(x.dtype)
    return F.log_softmax(x + (keep - 1) * 1e30, dim=dim) * keep


def labelled_pixels(
    name: str, target: Tensor | None, ignore_index: int, like: Tensor, resized: bool = True
) -> tuple[Tensor, Tensor]:
    """Return labels (B, h, w) and where they name one of the C classes of ``like`` (B, C, h, w): else they are 0.

    At its size, or, unless ``resized``, at their own.
    """
    labels = labels_like(target, like, name, resized)
    valid = (labels >= 0) & (labels < like.shape[1]) & (labels != ignore_index)
    return labels.masked_fill(~valid, 0), valid
