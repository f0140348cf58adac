"""Localisation distillation: KL between the box-side distributions of two heads (Zheng et al., arXiv 2102.12252)."""

from typing import Literal, get_args

from torch import Tensor

from segkd.errors import SegkdError, nearest
from segkd.losses._common import check_temperature, full_precision, soften
from segkd.losses._rows import check_rows, weighted_sum

Reduction = Literal["sum", "mean"]


def distribution_kl(
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    reduction: Reduction = "sum",
    weight: Tensor | float | None = None,
    avg_factor: Tensor | float = 1.0,
) -> Tensor:
    """Distil binned distributions: the sum over rows of weight * T^2 * KL(softmax(t / T) || softmax(s / T)).

    Args:
        student: (..., n) logits over the n bins of one box side each (17 for GFL).
        teacher: the same shape.
        temperature: divides both, above 0.
        reduction: over the bins, ``"sum"`` (the divergence, as in CrossKD) or ``"mean"`` (1/n of it, as LD's code, at
            temperature 10).
        weight: a number, or a tensor that broadcasts to (...).
        avg_factor: a number or a scalar tensor, above 0: what the sum over rows is divided by.

    Returns:
        A scalar, at least 0 up to rounding, in float32 (float64 for float64 logits). Without rows it is 0.

    Raises:
        SegkdError: shapes differ, the weight does not fit the rows, the temperature is not above 0 or the reduction
            does not exist.

    Reference: Zheng et al., "Localization Distillation for Dense Object Detection", arXiv 2102.12252.

    Example:
        >>> import torch
        >>> from segkd.losses import distribution_kl
        >>> distribution_kl(torch.zeros(8, 17), torch.zeros(8, 17)).item()
        0.0
    """
    check_temperature(temperature)
    check_rows("distribution_kl", student, teacher)
    if reduction not in get_args(Reduction):
        raise SegkdError(f"distribution_kl has no reduction {reduction!r}, {nearest(reduction, get_args(Reduction))}")
    with full_precision(student, teacher) as (s, t):
        log_s, log_t = soften(s, temperature).log_softmax(-1), soften(t, temperature).log_softmax(-1)
        of_bins = log_t.exp() * (log_t - log_s)
        of_rows = of_bins.sum(-1) if reduction == "sum" else of_bins.mean(-1)
        return weighted_sum(of_rows, weight, avg_factor) * temperature**2
