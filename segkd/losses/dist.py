"""DIST: relations between classes and between pixels (Huang et al., arXiv 2205.10536)."""

import torch
from torch import Tensor

from segkd.losses._common import (
    check_pair,
    check_temperature,
    full_precision,
    pixel_mean,
    soften,
    valid_pixels,
)
from segkd.losses.base import Loss


def correlation(a: Tensor, b: Tensor, dim: int) -> Tensor:
    """Return the Pearson correlation a . b / (|a| |b| + 1e-8) along ``dim``, where both have mean 0.

    That of a vector of zeros is 0 and passes no gradient, where 1e-8 alone would make it a hundred million times b.
    """
    squares = a.square().sum(dim) * b.square().sum(dim)
    exists = squares > 0
    return (a * b).sum(dim) * (exists / (torch.where(exists, squares, 1.0).sqrt() + 1e-8))


class DIST(Loss):
    """Distillation from a stronger teacher: the probabilities are to correlate, they need not be equal.

        p = softmax_c(z / T), a matrix of B * h * w pixels and C classes
        L = beta * (1 - mean over the pixels of r(p_s, p_t) over the classes)
          + gamma * (1 - mean over the classes of r(p_s, p_t) over all pixels of the batch)

    r is Pearson's correlation. There is no T^2, as in the released code, which also adds 0.4 times the same on
    auxiliary logits: a term of its own here (``student: aux``, ``teacher: aux``). For a teacher that is much stronger
    than the student. With DeepLabV3-R101 as teacher PSPNet-R18 gets to 76.31 mIoU, DeepLabV3-R18 to 77.10.

    Args:
        beta: weight of the rows.
        gamma: weight of the columns.
        temperature: divides the logits, above 0.
        ignore_index: leave pixels with this label out; None (as released) keeps them.

    Shape:
        student, teacher: (B, C, h, w) logits, the teacher's taken without gradient; target: (B, H, W) labels, read only
        with ``ignore_index``. Returns a scalar. It is 0 up to 1e-8 over the deviations where both are equal.

    Raises:
        SegkdError: shapes differ or the temperature is not above 0.

    Reference: Huang et al., "Knowledge Distillation from A Stronger Teacher", arXiv 2205.10536.

    Config:
        distill:
          terms:
            dist: {loss: dist, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import DIST
        >>> x = torch.randn(2, 5, 7, 9)
        >>> bool(DIST()(x, x) < 1e-5)
        True
    """

    name = "dist"
    title = "DIST, relations of classes and pixels"
    paper = "arXiv 2205.10536"
    default_weight = 1.0
    normalization = "beta (1 - mean correlation over B * h * w rows) + gamma (1 - that over C columns)"
    published = "Cityscapes, DeepLabV3-R18: to 77.10 mIoU"

    beta: float = 1.0
    gamma: float = 1.0
    temperature: float = 1.0
    ignore_index: int | None = None

    def check(self) -> None:
        """Look at the temperature."""
        check_temperature(self.temperature)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        valid = valid_pixels(target, self.ignore_index, student)
        with full_precision(student, teacher.detach()) as logits:
            # Classes first: (C, B * h * w).
            p = [soften(z, self.temperature).softmax(1).transpose(0, 1).flatten(1) for z in logits]
            s, t = (x - x.mean(0) for x in p)
            of_rows = 1 - correlation(s, t, 0)
            if valid is None:
                s, t = (x - x.mean(1, keepdim=True) for x in p)
                columns = correlation(s, t, 1)
                return self.beta * of_rows.mean() + self.gamma * (1 - columns.mean())
            kept, count = valid.flatten(), valid.sum()
            s, t = ((x - (x * kept).sum(1, keepdim=True) / count.clamp(min=1)) * kept for x in p)
            columns = correlation(s, t, 1)
            return self.beta * pixel_mean(of_rows, kept) + self.gamma * (1 - columns.mean()) * (count > 0)
