"""Pseudo-labels: the student's cross-entropy with the teacher's sure predictions (filtered as in arXiv 2104.03164)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import check_pair, full_precision, pixel_mean, valid_pixels
from segkd.losses.base import Loss


def quantile_cuts(losses: Tensor, classes: Tensor, count: int, quantile: float) -> Tensor:
    """Return the quantile of each class's losses, with linear interpolation: what is kept lies below it.

    The losses are the teacher's: of an image with a label its loss on that, of an unlabelled pixel -log max p.

    Args:
        losses: (N,).
        classes: (N,) int64; an entry whose class is not below ``count`` is of none.
        count: of the classes, C.
        quantile: in [0, 1]; 0.9 in the paper.

    Returns:
        (C,); NaN for a class without entry.
    """
    if not len(losses):
        return losses.new_full((count,), math.nan)
    order = losses.argsort()
    by_class = losses[order[classes[order].argsort(stable=True)]]  # ascending in each class, one class after the other
    each = torch.arange(count, device=losses.device)
    sizes = torch.zeros(count + 1, dtype=torch.long, device=losses.device)
    sizes = sizes.scatter_add(0, classes.clamp(max=count), torch.ones_like(classes))[each]
    last = (sizes - 1).clamp(min=0)
    starts, at = sizes.cumsum(0) - sizes, last.to(losses.dtype) * quantile
    low = at.long()
    beside = [by_class[(starts + torch.minimum(i, last)).clamp(max=len(losses) - 1)] for i in (low, low + 1)]
    return torch.where(sizes > 0, torch.lerp(beside[0], beside[1], at - low), math.nan)


class PseudoLabels(Loss):
    """Pseudo-labels: the mean cross-entropy of the student with the teacher's argmax, over the pixels that are kept.

        p_x = max_c softmax_c(z_t)_x
        L = mean over the kept pixels x of -log softmax(z_s)_x at the class argmax_c z_t

    A pixel is kept where p is at least ``threshold`` and, with a ``quantile``, where -log p lies below that quantile of
    it over the batch's pixels of its class: a fixed threshold keeps few pixels of the classes that the teacher is
    seldom sure of, the quantile as large a part of each. For images without labels; pixels that have one are taken
    alike unless ``unlabelled`` is given. Where no pixel is kept it is 0. The mean is over the kept pixels alone: a
    stricter filter does not make the loss smaller.

    The paper filters generated images by the quantile of their teacher's loss and has no threshold
    (``threshold=0, quantile=0.9``); its code keeps, as here, what lies strictly below. Here nothing is generated: any
    folder of images will do, pixel by pixel.

    Args:
        threshold: the least probability, in [0, 1); 0 for none.
        quantile: of each class, in (0, 1]; None for none.
        unlabelled: the label of pixels that have none, 255: those alone are taken; None takes all.

    Shape:
        student, teacher: (B, C, h, w) logits; target: (B, H, W) labels, read only with ``unlabelled``; without target
        no pixel has one. Returns a scalar.

    Raises:
        SegkdError: shapes differ, or threshold or quantile is out of its range.

    Reference: Ding et al., "Distilling and Transferring Knowledge via cGAN-generated Samples for Image Classification
    and Regression", arXiv 2104.03164, per pixel.

    Config:
        data:
          limit: 100
          unlabelled: {images: "train/*.png", share: 0.5}
        distill:
          terms:
            pseudo: {loss: pseudo_labels, threshold: 0.9, unlabelled: 255, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import PseudoLabels
        >>> teacher = torch.tensor([9.0, 0.0]).view(1, 2, 1, 1)
        >>> round(PseudoLabels(threshold=0.9)(torch.zeros(1, 2, 1, 1), teacher).item(), 4)
        0.6931
    """

    name = "pseudo_labels"
    title = "Pseudo-labels"
    paper = "arXiv 2104.03164"
    default_weight = 1.0
    normalization = "mean of the cross-entropy over the kept pixels"

    threshold: float = 0.9
    quantile: float | None = None
    unlabelled: int | None = None

    def check(self) -> None:
        """Look at threshold and quantile."""
        if not 0 <= self.threshold < 1:
            raise SegkdError(f"pseudo_labels has a threshold of at least 0 and below 1, got {self.threshold}")
        if self.quantile is not None and not 0 < self.quantile <= 1:
            raise SegkdError(f"pseudo_labels has a quantile above 0 and at most 1, got {self.quantile}")

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        has_label = valid_pixels(target, self.unlabelled, student)
        with full_precision(student, teacher.detach()) as (s, t):
            surest, classes = t.max(1)
            losses = t.logsumexp(1) - surest
            kept = torch.ones_like(classes, dtype=torch.bool) if has_label is None else ~has_label
            of_class = classes.where(kept, t.shape[1])
            if self.threshold > 0:
                kept = kept & (losses <= -math.log(self.threshold))
            if self.quantile is not None:
                cuts = quantile_cuts(losses.flatten(), of_class.flatten(), t.shape[1], self.quantile)
                kept = kept & (losses < cuts[classes])
            return pixel_mean(F.cross_entropy(s, classes, reduction="none"), kept)
