"""What the losses on rows share: checks, and the weighted sum over an average factor that detection normalises by."""

import torch
from torch import Tensor

from segkd.errors import SegkdError


def check_rows(name: str, student: Tensor, teacher: Tensor) -> None:
    """Raise unless both tensors are (..., K) and of the same shape."""
    if student.dim() == 0 or student.shape != teacher.shape:
        raise SegkdError(
            f"{name} expects student and teacher of one shape (..., K), got student {tuple(student.shape)} "
            f"and teacher {tuple(teacher.shape)}"
        )


def weighted_sum(rows: Tensor, weight: Tensor | float | None, avg_factor: Tensor | float) -> Tensor:
    """Return the sum of rows times weight, over ``avg_factor``.

    Args:
        rows: (...), the loss of each row.
        weight: a number, or a tensor that broadcasts to the rows' shape; None is 1.
        avg_factor: a number or a scalar tensor, above 0.

    Raises:
        SegkdError: the weight does not broadcast to the rows: (N, 1) against (N,) would weigh each row N times.
    """
    if weight is not None:
        if isinstance(weight, Tensor) and not _broadcasts(weight.shape, rows.shape):
            raise SegkdError(f"the weight must broadcast to {tuple(rows.shape)}, got {tuple(weight.shape)}")
        rows = rows * weight
    return rows.sum() / avg_factor


def _broadcasts(given: torch.Size, shape: torch.Size) -> bool:
    return len(given) <= len(shape) and all(a in (1, b) for a, b in zip(reversed(given), reversed(shape), strict=False))
