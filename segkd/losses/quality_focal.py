"""Quality focal loss, and its use to distil classification logits as CrossKD does (Wang et al., arXiv 2306.11369)."""

import torch.nn.functional as F
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import full_precision
from segkd.losses._rows import check_rows, weighted_sum


def quality_focal(logits: Tensor, quality: Tensor, beta: float) -> Tensor:
    """Return BCE(sigmoid(z), q) * |sigmoid(z) - q|^beta of each entry; the gradient flows through both factors.

    Args:
        logits: z, any shape.
        quality: q in [0, 1], the same shape.
        beta: 0 (plain binary cross-entropy) or at least 1: below, the slope at z = q is infinite.

    Returns:
        The same shape, at least 0, in float32 (float64 for float64 inputs).

    Raises:
        SegkdError: beta lies outside its range.

    Reference: Li et al., "Generalized Focal Loss", arXiv 2006.04388.
    """
    if not (beta == 0 or beta >= 1):
        raise SegkdError(f"beta must be 0 or at least 1, got {beta}")
    with full_precision(logits, quality) as (z, q):
        cross_entropy = F.binary_cross_entropy_with_logits(z, q, reduction="none")
        return cross_entropy * (z.sigmoid() - q).abs().pow(beta)


def quality_focal_kd(
    student: Tensor,
    teacher: Tensor,
    weight: Tensor | float | None = None,
    beta: float = 1.0,
    avg_factor: Tensor | float = 1.0,
) -> Tensor:
    """Distil per-class sigmoid logits: `quality_focal` with the teacher's probabilities as quality.

    The sum over rows and classes of weight * BCE(sigmoid(s), sigmoid(t)) * |sigmoid(s) - sigmoid(t)|^beta, over
    ``avg_factor``. Cross-entropy, not KL: where the student equals the teacher the second factor makes it 0.

    Args:
        student: (..., K) logits, one row a prior.
        teacher: the same shape.
        weight: a number, or a tensor that broadcasts to (...), such as 0 for a prior that the assigner ignores.
        beta: 0 or at least 1.
        avg_factor: a number or a scalar tensor, above 0.

    Returns:
        A scalar, at least 0, in float32 (float64 for float64 logits). Without rows it is 0.

    Raises:
        SegkdError: shapes differ, the weight does not fit the rows or beta lies outside its range.

    Reference: Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection", arXiv 2306.11369.

    Example:
        >>> import torch
        >>> from segkd.losses import quality_focal_kd
        >>> quality_focal_kd(torch.zeros(3, 5), torch.zeros(3, 5)).item()
        0.0
    """
    check_rows("quality_focal_kd", student, teacher)
    with full_precision(student, teacher) as (s, t):
        return weighted_sum(quality_focal(s, t.sigmoid(), beta).sum(-1), weight, avg_factor)
