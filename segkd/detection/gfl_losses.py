"""Generalised focal loss (Li et al., arXiv 2006.04388): scores that mean box quality, box sides as distributions."""

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import full_precision
from segkd.losses._rows import weighted_sum
from segkd.losses.quality_focal import quality_focal

BINS = 17  # how many values a box side's distribution is over: 0, 1, ... 16 strides


def quality_focal_loss(
    logits: Tensor,
    labels: Tensor,
    scores: Tensor,
    weight: Tensor | float | None = None,
    beta: float = 2.0,
    avg_factor: Tensor | float = 1.0,
) -> Tensor:
    """QFL: a prior's target is its box's quality at its class and 0 at the others.

    The sum over priors and classes of weight * BCE(sigmoid(z), q) * |sigmoid(z) - q|^beta, over ``avg_factor``.

    Args:
        logits: (N, K), no background.
        labels: (N,) int64 in 0..K; K is background, whose scores are not read.
        scores: (N,), q in [0, 1] at the prior's label: the IoU of the predicted box with its true box.
        weight: a number, or (N,), such as 0 for a prior that takes no part.
        beta: 0 or at least 1.
        avg_factor: a number or a scalar tensor, above 0.

    Returns:
        A scalar, at least 0, in float32 (float64 for float64 logits). Without priors it is 0.

    Raises:
        SegkdError: shapes do not fit each other or beta lies outside its range.
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or scores.shape != logits.shape[:1]:
        raise SegkdError(
            f"quality_focal_loss expects logits (N, K), labels (N,) and scores (N,), got {tuple(logits.shape)}, "
            f"{tuple(labels.shape)} and {tuple(scores.shape)}"
        )
    with full_precision(logits, scores) as (z, q):
        # Background is one class more, cut off again.
        quality = z.new_zeros(z.shape[0], z.shape[1] + 1)
        quality = quality.scatter(1, labels[:, None], q[:, None].to(z.dtype))[:, :-1]
        return weighted_sum(quality_focal(z, quality, beta).sum(-1), weight, avg_factor)


def distribution_focal_loss(
    logits: Tensor, target: Tensor, weight: Tensor | float | None = None, avg_factor: Tensor | float = 1.0
) -> Tensor:
    """DFL: cross-entropy of the two bins around the true distance, each weighted by the nearness of the other's side.

    The sum over rows of weight * (CE(floor(y)) * (floor(y) + 1 - y) + CE(floor(y) + 1) * (y - floor(y))), over
    ``avg_factor``.

    Args:
        logits: (N, n), one row a box side.
        target: (N,), y in [0, n - 1], in bins.
        weight: a number, or (N,).
        avg_factor: a number or a scalar tensor, above 0.

    Returns:
        A scalar, at least 0, in float32 (float64 for float64 logits). Without rows it is 0.

    Raises:
        SegkdError: shapes do not fit each other.
    """
    if logits.dim() != 2 or target.shape != logits.shape[:1]:
        raise SegkdError(
            f"distribution_focal_loss expects logits (N, n) and target (N,), got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}"
        )
    with full_precision(logits, target) as (z, y):
        below = y.long().clamp(max=z.shape[1] - 2)  # y = n - 1 is wholly the upper bin of the last pair
        share = y - below
        lower = F.cross_entropy(z, below, reduction="none") * (1 - share)
        upper = F.cross_entropy(z, below + 1, reduction="none") * share
        return weighted_sum(lower + upper, weight, avg_factor)


def integral(logits: Tensor) -> Tensor:
    """Return the expected distance of each box side: sum_k k * softmax(l)_k, k = 0..16.

    Args:
        logits: (..., 17), or (..., 68) for the four sides in a row (left, top, right, bottom).

    Returns:
        (...) or (..., 4) in strides, each in [0, 16], in float32 (float64 for float64 logits).

    Raises:
        SegkdError: the last dimension is neither 17 nor 68.
    """
    if logits.shape[-1:] not in ((BINS,), (4 * BINS,)):
        raise SegkdError(f"integral expects logits (..., {BINS}) or (..., {4 * BINS}), got {tuple(logits.shape)}")
    with full_precision(logits) as (z,):
        if z.shape[-1] != BINS:
            z = z.unflatten(-1, (4, BINS))
        return (z.softmax(-1) * torch.arange(BINS, dtype=z.dtype, device=z.device)).sum(-1)
