"""ICSD: inter-class similarity distillation (Mansourian, Ahmadi and Kasaei, arXiv 2308.04243)."""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from segkd.errors import SegkdError, nearest
from segkd.losses._common import (
    check_pair,
    check_temperature,
    full_precision,
    masked_log_softmax,
    soften,
    valid_pixels,
)
from segkd.losses.base import Loss

Variant = Literal["paper", "released"]


class _Divergences(torch.autograd.Function):
    """KL between all pairs of rows of softmax(z), with the gradient written out.

    With p = softmax(z) and c its logarithm's constant (log p = z - c), K = p @ z^T - c has K[i, j] = sum_x p_i log p_j,
    and D[i, j] = K[i, i] - K[i, j]: the map log p is never made. With A = dL/dK the softmax's two terms reduce to
    C x C matrices: dL/dz = p * (A @ z - r) + A^T @ p, where r = A @ c + rowsum(A * K) + colsum(A). Beside z, which the
    model's output holds anyway, p is all that is kept: plain autograd takes several times the passes and the memory.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, valid: Tensor | None) -> Tensor:
        """Return (B, C, C) from float logits (B, C, N), over the positions in ``valid`` (B, 1, N)."""
        kept = z if valid is None else z + (valid.to(z.dtype) - 1) * 1e30
        p = F.softmax(kept, -1)
        # At the largest z, where p is at least 1 / N: no pass that takes memory for another map.
        constant = kept.amax(-1) - p.amax(-1).log()
        if valid is not None:
            p = p * valid
            constant = constant * valid.any(-1)  # an image without any valid position: zeros
        cross = p @ z.transpose(1, 2) - constant[:, None]
        ctx.save_for_backward(z, p, constant, cross)
        # Sum_x p_i log p_i is the diagonal of the same product: no further pass over the map, and D[i, i] is exactly 0.
        return cross.diagonal(dim1=1, dim2=2)[:, :, None] - cross

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of z."""
        z, p, constant, cross = ctx.saved_tensors
        # Someone may call backward() under autocast, which would run the products in bfloat16.
        with full_precision(grad) as (grad,):
            a = torch.diag_embed(grad.sum(2)) - grad
            r = (a @ constant[:, :, None])[:, :, 0] + (a * cross).sum(2) + a.sum(1)
            grad_z = torch.baddbmm(r[:, :, None], a, z, beta=-1).mul_(p)
            return grad_z.baddbmm_(a.transpose(1, 2), p), None


def inter_class_similarity(logits: Tensor, temperature: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """Return the inter-class similarity matrix of each image.

    The intra-class distribution p_c of class c is the softmax of its logits over all positions of the image (not over
    classes), and ``D[b, i, j] = KL(p_i || p_j)``. One batched matrix product; memory grows with C*h*w + C*C.

    Args:
        logits: (B, C, h, w).
        temperature: divides the logits, above 0.
        valid: (B, h, w) bool; positions that are False are left out of the softmax. An image without any gives zeros.

    Returns:
        (B, C, C) in nats, at least 0 up to rounding, 0 on the diagonal, in float32 (float64 for float64 logits). Its
        absolute error is some 1e-6 of the largest logit. It can be differentiated once.
    """
    check_temperature(temperature)
    if logits.dim() != 4:
        raise SegkdError(f"inter_class_similarity expects logits (B, C, H, W), got {tuple(logits.shape)}")
    with full_precision(logits) as (z,):
        mask = None if valid is None else valid.flatten(1)[:, None]
        return _Divergences.apply(soften(z.flatten(2), temperature), mask)


def released_similarity(logits: Tensor, temperature: float = 1.0, valid: Tensor | None = None) -> Tensor:
    """Return the (C, C) matrix that the authors' released code builds, kept to compare with the published numbers.

    The softmax runs over the rows (H) only, the whole batch is one pool, the upper triangle is mirrored and each row
    is divided by its L2 norm. Unlike the released code it stays finite once the softmax underflows: the logarithm is
    taken before the exponential. Arguments are those of `inter_class_similarity`.
    """
    check_temperature(temperature)
    with full_precision(logits) as (z,):
        keep = None if valid is None else valid[:, None]
        log_p = masked_log_softmax(soften(z, temperature), keep, dim=2)
        p = log_p.exp() if keep is None else log_p.exp() * keep
        log_p, p = (x.transpose(0, 1).flatten(1) for x in (log_p, p))
        pooled = ((p * log_p).sum(1)[None, :] - p @ p.T) / logits.shape[0]
        mirrored = pooled.triu() + pooled.triu(1).T
        return F.normalize(mirrored, dim=1, eps=1e-12)


class ICSD(Loss):
    """Inter-class similarity distillation: the student copies which classes look alike to the teacher, and where.

        p_c(x) = softmax over the positions x of z_c(x) / T
        D_ij = KL(p_i || p_j) = sum_x p_i(x) (log p_i(x) - log p_j(x))
        L = mean over B, i, j of (D^s_ij - D^t_ij)^2

    Each class has a distribution over the image; two classes are alike where these overlap. It needs logits alone: the
    two models may be of any make. `inter_class_similarity` returns the matrices, TensorBoard shows both models'.

    The authors' released code computes another matrix. Its softmax runs over the rows of the image alone, so that each
    column sums to 1; the batch is one pool instead of one matrix an image; of the pair (i, j) it takes
    p_j log p_j - p_i p_j, in which p_i p_j, all that depends on both classes, is by far the smaller part; the upper
    triangle is mirrored, so that the order of the classes matters; each row is divided by its L2 norm; and the mean
    over C * C is divided by B again. Once its softmax underflows (a gap between logits of 104 in float32) its gradient
    is NaN. ``variant="released"`` gives its values, from logarithms that stay finite.

    The two differ by orders of magnitude (16.9 and 5.7e-4, 0.065 and 6.0e-5 on two pairs of tensors of
    ``tests/reference/losses.json``), so the published weight 9500 belongs to ``released``, beside a cross-entropy that
    the released code divides by the batch once more (``distill.task_weight: 0.16667`` for its 6 images). On CamVid at
    240x320 with a trained teacher and a DeepLabV3+ the paper variant starts at 60 to 80 and ends near 2
    (``train/icsd`` in TensorBoard): a weight of 0.01 to 0.1 brings it to the size of the cross-entropy at first. On
    other images or at another resolution the entries are larger or smaller: look at the value in the first steps before
    you choose a weight. Use it where labels are few, alone or beside pixel KD.

    Args:
        temperature: divides the logits, above 0.
        variant: ``"paper"`` or ``"released"``.
        ignore_index: leave pixels with this label out of the spatial softmax; None (as in the paper) keeps them.

    Shape:
        student, teacher: (B, C, h, w) logits; target: (B, H, W) labels, read only with ``ignore_index``.
        Returns a scalar.

    Raises:
        SegkdError: shapes differ, the temperature is not above 0 or the variant does not exist.

    Reference: Mansourian, Ahmadi, Kasaei, "AICSD: Adaptive Inter-Class Similarity Distillation for Semantic
    Segmentation", arXiv 2308.04243.

    Config:
        distill:
          terms:
            icsd: {loss: icsd, variant: paper, temperature: 1.0, weight: 0.02}

    Example:
        >>> import torch
        >>> from segkd.losses import ICSD
        >>> loss = ICSD()(torch.randn(2, 19, 33, 65), torch.randn(2, 19, 33, 65))
        >>> loss.shape
        torch.Size([])
    """

    name = "icsd"
    title = "Inter-class similarity distillation"
    paper = "arXiv 2308.04243"
    default_weight = 0.02
    normalization = "mean over B * C * C, variant paper; published is 9500, variant released"
    published = "VOC, DeepLabV3+, R101 teaches R18: 67.50 to 70.03 mIoU, with pixel KD and ALW"

    temperature: float = 1.0
    variant: Variant = "paper"
    ignore_index: int | None = None

    def check(self) -> None:
        """Look at temperature and variant."""
        check_temperature(self.temperature)
        if self.variant not in get_args(Variant):
            raise SegkdError(f"icsd has no variant {self.variant!r}, {nearest(self.variant, get_args(Variant))}")

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        valid = valid_pixels(target, self.ignore_index, student)
        similarity = inter_class_similarity if self.variant == "paper" else released_similarity
        difference = similarity(student, self.temperature, valid) - similarity(
            teacher.detach(), self.temperature, valid
        )
        mean = difference.square().mean()
        return mean if self.variant == "paper" else mean / student.shape[0]
