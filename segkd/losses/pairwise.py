"""Pairwise distillation: how alike the positions of an image are (Liu et al., arXiv 1903.04197)."""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkd.errors import SegkdError, nearest
from segkd.losses._common import check_maps, full_precision, unit
from segkd.losses.base import Loss

Variant = Literal["cirkd", "skd"]

BLOCK = 2**22
"""Entries of the matrices of similarities that are worked on at once."""


class _Similarities(torch.autograd.Function):
    """Mean over B * m * m of (S^T S - T^T T)^2, the slope taken along: 4 S (S^T S - T^T T) / (B m^2).

    A few rows of the two m x m matrices at a time: at 4 x 256 x 64 x 128 a whole one has a gigabyte.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar from vectors (B, C_s, m) and (B, C_t, m) of float32 or float64."""
        count, _, m = student.shape
        rows, slope = max(BLOCK // m, 1), torch.empty_like(student)
        total = student.new_zeros(())
        for s, t, of_image in zip(student, teacher, slope, strict=True):
            for start in range(0, m, rows):
                block = slice(start, start + rows)
                d = torch.addmm(s[:, block].T @ s, t[:, block].T, t, alpha=-1)
                total += d.square().sum()
                of_image[:, block] = s @ d.T
        ctx.save_for_backward(slope.mul_(4 / (count * m * m)))
        return total / (count * m * m)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the student's vectors; the teacher gets none."""
        (slope,) = ctx.saved_tensors
        return slope * grad, None


class Pairwise(Loss):
    """Pairwise distillation: the student copies which positions of an image are alike to the teacher.

        a_ij = f_i . f_j / (||f_i|| ||f_j||), f_i the feature at one of m positions
        L = mean over B * m * m of (a^s_ij - a^t_ij)^2

    The maps are max-pooled to m positions first (the last windows may be cut off). Exact, in blocks: the matrices of
    m * m are never whole in memory, which grows with m.

    ``variant="cirkd"``: windows of ``pool`` by ``pool``; the gradient passes through the lengths. CIRKD's weight is 10.
    ``variant="skd"``: windows of ``scale`` times the map's sides, so that of 0.5 four or nine are left, and lengths
    that are constants for the gradient, as the authors released it. Its weight is 0.5, on PSPNet's pyramid, beside
    a pixel-wise term of 10 that is summed over the batch. Both have this mean. A position that is 0 in all channels
    passes no gradient, where the released code multiplies it by 1e8.

    SKD's third term, a discriminator on the logits, is left out: a second network and optimiser for a term of weight
    0.001, of which no figure shows that it helps a matched baseline.

    Args:
        variant: ``"cirkd"`` or ``"skd"``.
        pool: side of the windows of ``"cirkd"``, at least 1.
        scale: of the windows of ``"skd"``, in (0, 1].

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient. target is not read. Returns a
        scalar. It can be differentiated once.

    Raises:
        SegkdError: batch or size differ, or an option is out of range.

    Reference: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", arXiv 1903.04197.

    Config:
        distill:
          terms:
            pairwise: {loss: pairwise, student: decoder, teacher: decoder, weight: 10.0}

    Example:
        >>> import torch
        >>> from segkd.losses import Pairwise
        >>> x = torch.randn(2, 8, 7, 9)
        >>> bool(Pairwise()(x, 3 * x) < 1e-12)
        True
    """

    name = "pairwise"
    title = "Pairwise distillation"
    paper = "arXiv 1903.04197"
    takes = "features"
    default_weight = 10.0
    normalization = "mean over B * m * m, m pooled positions, variant cirkd; 0.5 for skd"
    published = "Cityscapes, DeepLabV3, R101 teaches R18: 74.21 to 75.42 mIoU, with a discriminator"
    any_channels = True

    variant: Variant = "cirkd"
    pool: int = 2
    scale: float = 0.5

    def check(self) -> None:
        """Look at the options."""
        if self.variant not in get_args(Variant):
            raise SegkdError(f"pairwise has no variant {self.variant!r}, {nearest(self.variant, get_args(Variant))}")
        if self.pool < 1:
            raise SegkdError(f"pairwise pools windows of at least 1, got pool {self.pool}")
        if not 0 < self.scale <= 1:
            raise SegkdError(f"pairwise pools windows of a share of the map in (0, 1], got scale {self.scale}")

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_maps(self.name, student, teacher)
        with full_precision(student, teacher.detach()) as (s, t):
            loss: Tensor = _Similarities.apply(self._vectors(s), self._vectors(t))
            return loss

    def _vectors(self, features: Tensor) -> Tensor:
        """Return the pooled positions' vectors of length 1, (B, C, m)."""
        if self.variant == "cirkd":
            return unit(F.max_pool2d(features, self.pool, ceil_mode=True).flatten(2), 1)
        window = [max(int(side * self.scale), 1) for side in features.shape[2:]]
        x = F.max_pool2d(features, window, ceil_mode=True).flatten(2)
        length = x.detach().norm(dim=1, keepdim=True)
        return x * torch.where(length > 0, 1 / (length + 1e-8), 0.0)
