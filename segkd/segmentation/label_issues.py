"""Labels that are probably wrong, by what a model that has not learnt them says: confident learning (cleanlab)."""

from typing import NamedTuple

import torch
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import full_precision, labelled_pixels

ABSENT = 2e-6
"""Threshold of a class that no pixel is labelled with."""


class LabelIssues(NamedTuple):
    """What `label_issues` finds."""

    pixels: Tensor
    """(B, h, w) bool: the labels to look at."""
    likely: int
    """How many pixels contradict their label so surely that it is probably wrong."""
    scores: Tensor
    """(B,), of each image how good its labels are, in [0, 1]: the worst first are to be looked at."""
    thresholds: Tensor
    """(C,), of each class the mean probability of the pixels that are labelled with it."""


@torch.no_grad()
def label_issues(logits: Tensor, target: Tensor, ignore_index: int = 255, softmin: float = 0.1) -> LabelIssues:
    """Return which labels of a data set a model contradicts: to be looked at, not to be changed unseen.

    A pixel's self-confidence is the probability of its label. As many pixels are issues as contradict their label with
    at least the threshold of the class that they name: those of least self-confidence, less what agrees with its label.
    An image's score is the mean of its pixels' self-confidence s, weighed by softmax((1 - s) / softmin).

    The model must not have been trained on these images, else it has learnt their errors: take one for each part of
    them, trained on the others.

    Args:
        logits: (B, C, h, w), of all images together.
        target: (B, H, W) labels, taken to the logits' size by nearest neighbour.
        ignore_index: label of pixels to leave out, as are labels that name no class.
        softmin: the smaller, the more the worst pixels count in the score, above 0.

    Returns:
        Pixels, scores (1 for an image without label) and thresholds.

    Raises:
        SegkdError: the labels are of another batch, or ``softmin`` is not above 0.

    Reference: Northcutt, Jiang, Chuang, "Confident Learning", arXiv 1911.00068; Lad, Mueller, arXiv 2307.05080.
    """
    if not softmin > 0:
        raise SegkdError(f"label_issues has a softmin above 0, got {softmin}")
    labels, valid = labelled_pixels("label_issues", target, ignore_index, logits)
    with full_precision(logits) as (z,):
        p = z.softmax(1)
    largest, predicted = p.max(1)
    own = p.gather(1, labels[:, None])[:, 0]
    sums, counts = p.new_zeros(2, p.shape[1])
    sums.scatter_add_(0, labels[valid], own[valid])
    counts.scatter_add_(0, labels[valid], torch.ones_like(own[valid]))
    thresholds = torch.where(counts > 0, sums / counts.clamp(min=1), ABSENT)
    contradicts = (predicted != labels) & valid
    count = int((contradicts & (largest >= thresholds[predicted] - 1e-6)).sum())
    worst = own.masked_fill(~valid, torch.inf).flatten().argsort(stable=True)[:count]
    pixels = torch.zeros_like(valid).flatten().index_fill(0, worst, True).view_as(valid) & contradicts
    weights = ((1 - own) / softmin).masked_fill(~valid, -torch.inf).flatten(1).softmax(1)
    scores = torch.where(valid.flatten(1).any(1), (own.flatten(1) * weights.nan_to_num()).sum(1), 1.0)
    return LabelIssues(pixels, count, scores, thresholds)
