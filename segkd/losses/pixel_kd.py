"""Pixel-wise knowledge distillation: the Hinton loss at each pixel."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from segkd.losses._common import check_pair, check_temperature, full_precision, share_of_all, soften, valid_pixels
from segkd.losses.base import Loss


class _PixelKL(torch.autograd.Function):
    """KL(softmax(t) || softmax(s)) over dim 1, its slope taken along: p_s - p_t, and p_t * (log p_t - log p_s - KL).

    Plain autograd gives the same numbers with twice as many temporaries of the map's size and keeps two for backward
    where one will do; at full resolution, fetching that memory is most of what the loss costs. For the same reason the
    images are taken one by one: the temporaries of a single one are small enough to be used again.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return (B, h, w) from logits (B, C, h, w), in full precision."""
        kind = torch.promote_types(student.dtype, torch.float32)
        kl = student.new_empty((student.shape[0], *student.shape[2:]), dtype=kind)
        slope_s = torch.empty_like(student, dtype=kind) if ctx.needs_input_grad[0] else None
        slope_t = torch.empty_like(teacher, dtype=kind) if ctx.needs_input_grad[1] else None
        for image in range(student.shape[0]):
            log_s, log_t = (
                F.log_softmax(soften(logits[image].to(kind), temperature), dim=0) for logits in (student, teacher)
            )
            p_t = log_t.exp()
            of_classes = log_t.sub_(log_s).mul_(p_t)
            kl[image] = of_classes.sum(0)
            if slope_s is not None:
                torch.sub(log_s.exp_(), p_t, out=slope_s[image])
            if slope_t is not None:
                torch.sub(of_classes, p_t.mul_(kl[image]), out=slope_t[image])
        # The logits are the models' own, which are alive anyway.
        ctx.save_for_backward(student, teacher, slope_s, slope_t)
        ctx.temperature = temperature
        return kl

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of both logits."""
        student, teacher, *slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: they are to be differentiated themselves
            found = _slopes(student, teacher, ctx.temperature)
            slopes = [None if slope is None else plain for slope, plain in zip(slopes, found, strict=True)]
        grad = soften(grad, ctx.temperature)[:, None]
        pairs = zip(slopes, (student, teacher), strict=True)
        return *(None if slope is None else (slope * grad).to(logits.dtype) for slope, logits in pairs), None


def _slopes(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return what `_PixelKL` multiplies the gradients by, in a form that autograd can follow."""
    with full_precision(student, teacher) as (s, t):
        log_s, log_t = soften(s, temperature).log_softmax(1), soften(t, temperature).log_softmax(1)
        p_t, difference = log_t.exp(), log_t - log_s
        return log_s.exp() - p_t, p_t * (difference - (p_t * difference).sum(1, keepdim=True))


def pixel_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) over the classes at each pixel.

    Args:
        student: (B, C, h, w) logits.
        teacher: the same shape.
        temperature: divides both, above 0.

    Returns:
        (B, h, w) in nats, not multiplied by the squared temperature.
    """
    check_temperature(temperature)
    check_pair("pixel_kl", student, teacher)
    kl: Tensor = _PixelKL.apply(student, teacher, temperature)
    return kl


class PixelKD(Loss):
    """Pixel-wise KD: T^2 * mean over B*h*w of KL(softmax_c(z_t / T) || softmax_c(z_s / T)).

    The code released with AICSD averages over B*C*h*w and leaves T^2 out: its weight 10 is 10 / C here.

    Args:
        temperature: divides the logits, above 0.
        ignore_index: leave pixels with this label out, when labels are given; None (the field's habit) keeps them. In a
            distributed run their number is averaged over processes, so that each pixel counts alike.

    Shape:
        student, teacher: (B, C, h, w) logits; target: (B, H, W) labels, read only with ``ignore_index``.
        Returns a scalar.

    Raises:
        SegkdError: shapes differ or the temperature is not above 0.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, per pixel.

    Example:
        >>> import torch
        >>> from segkd.losses import PixelKD
        >>> PixelKD(temperature=2.0)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)).item()
        0.0
    """

    name = "pixel_kd"
    title = "Pixel-wise KD"
    paper = "arXiv 1503.02531"
    default_weight = 1.0
    normalization = "T^2 * mean of KL over the B * h * w pixels"

    temperature: float = 1.0
    ignore_index: int | None = None

    def check(self) -> None:
        """Look at the temperature."""
        check_temperature(self.temperature)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        kl = pixel_kl(student, teacher, self.temperature)
        valid = valid_pixels(target, self.ignore_index, student)
        if valid is None:
            return kl.mean() * self.temperature**2
        count = valid.sum()
        return (kl * valid).sum() / count.clamp(min=1) * (self.temperature**2 * share_of_all(count))
