"""SP: similarity-preserving distillation (Tung and Mori, arXiv 1907.09682)."""

import warnings

from torch import Tensor

from segkd.losses._common import check_maps, full_precision, unit
from segkd.losses.base import Loss


def similarity(features: Tensor) -> Tensor:
    """Return how alike the images of a batch are: the products of their features, each row of length 1.

    Args:
        features: (B, C, h, w).

    Returns:
        (B, B); a row of zeros for an image that is zero everywhere, which passes no gradient.
    """
    rows = features.flatten(1)
    return unit(rows @ rows.T, 1)


class SP(Loss):
    """Similarity-preserving distillation: images that are alike to the teacher are to be alike to the student.

        G = F F^T, products of the features of two images, each row divided by its L2 norm
        L = mean over B * B of (G_s - G_t)^2

    Of a single image there is nothing to copy: the loss is 0, and a warning says so once.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h', w'), taken without gradient. target is not read. Returns
        a scalar.

    Raises:
        SegkdError: the batches differ.

    Reference: Tung and Mori, "Similarity-Preserving Knowledge Distillation", arXiv 1907.09682.

    Config:
        distill:
          terms:
            sp: {loss: sp, student: decoder, teacher: decoder, weight: 3000.0}

    Example:
        >>> import torch
        >>> from segkd.losses import SP
        >>> x = torch.randn(3, 8, 7, 9)
        >>> bool(SP()(x, 2 * x.flip(1)) < 1e-12)
        True
    """

    name = "sp"
    title = "Similarity-preserving distillation"
    paper = "arXiv 1907.09682"
    takes = "features"
    default_weight = 3000.0
    normalization = "mean over B * B; the weight is for classification"
    any_channels = True

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_maps(self.name, student, teacher, any_size=True)
        if len(student) < 2:
            warnings.warn("sp compares the images of a batch, and this one has a single image: 0", stacklevel=2)
        with full_precision(student, teacher.detach()) as (s, t):
            return (similarity(s) - similarity(t)).square().mean()
