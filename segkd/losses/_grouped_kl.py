"""A KL divergence of softmaxes in three parts, of two groups of classes: for GDKD and grouped KD."""

from typing import Any

import torch
from torch import Tensor

from segkd.losses._common import full_precision, soften
from segkd.losses._kl import KL, parts


def grouped_kl(student: Tensor, teacher: Tensor, group: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return KL(teacher || student) at each pixel in three parts: between group and rest, in the group, in the rest.

    From logarithms: a mass that underflows is no infinity. A part of less than two classes is 0.

    Args:
        student: (B, C, h, w) logits.
        teacher: the same shape.
        group: the same shape, bool: which classes are of the group at this pixel.
        temperature: divides both, above 0.

    Returns:
        Three (B, h, w): of (the group's mass, that of the rest), of the group's own softmax and of the rest's.
    """
    with full_precision(student, teacher) as (s, t):
        if t.requires_grad:
            return _plain(s, t, group, temperature)
        between, inside, outside = _GroupedKL.apply(s, t, group, temperature)
        return between, inside, outside


class _GroupedKL(torch.autograd.Function):
    """The three parts for a fixed teacher, with the student's slopes taken along, some rows at a time; see `KL`.

    Of a class with softmax q in its own half of the classes, whose mass is m: q_s - q_t, and between the halves
    (m_s - m_t) q_s.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, group: Tensor, temperature: float) -> tuple[Tensor, ...]:
        found = [student.new_empty((len(student), *student.shape[2:])) for _ in range(3)]
        slopes = [torch.empty_like(student) for _ in range(2)] if ctx.needs_input_grad[0] else []
        for rows in parts(student):
            halves = [part.to(student.dtype) for part in (group[rows], ~group[rows])]
            of_s, of_t = (_halves(soften(z[rows], temperature), group[rows], halves) for z in (student, teacher))
            (log_m_s, log_q_s, q_s), (log_m_t, log_q_t, q_t) = of_s, of_t
            torch.sum(log_m_t.exp() * (log_m_t - log_m_s), 1, out=found[0][rows])
            each = log_q_t.sub_(log_q_s).mul_(q_t)
            for kl, keep in zip(found[1:], halves, strict=True):
                torch.sum(each * keep, 1, out=kl[rows])
            if slopes:
                torch.sub(q_s, q_t, out=slopes[0][rows])
                gap = log_m_s.exp_().sub_(log_m_t.exp_())
                torch.mul(q_s, torch.where(group[rows], gap[:, :1], gap[:, 1:]), out=slopes[1][rows])
        ctx.save_for_backward(student, teacher, group, *slopes)
        ctx.temperature = temperature
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, between: Tensor, inside: Tensor, outside: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, group, *slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: the gradient is to be differentiated itself
            found = _plain(student, teacher, group, ctx.temperature)
            grad = torch.autograd.grad(found, student, (between, inside, outside), create_graph=True)
            return grad[0], None, None, None
        grads = [soften(grad, ctx.temperature).unsqueeze(1) for grad in (between, inside, outside)]
        within = slopes[0] * torch.where(group, grads[1], grads[2])
        return within.addcmul_(slopes[1], grads[0]), None, None, None


def _halves(z: Tensor, group: Tensor, halves: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logarithms of both halves' masses (B, 2, h, w), and of each class in its own half: log q and q."""
    # Arithmetic rather than masked_fill, which is several times slower.
    top, other_top = ((z + (keep - 1) * 1e30).amax(1, keepdim=True) for keep in halves)
    e = (z - torch.where(group, top, other_top)).exp_()
    tiny = torch.finfo(z.dtype).tiny
    total, other_total = ((e * keep).sum(1, keepdim=True).clamp_min(tiny) for keep in halves)
    mass, other_mass = top + total.log(), other_top + other_total.log()
    own = e.div_(torch.where(group, total, other_total))
    return torch.cat([mass, other_mass], 1).log_softmax(1), z - torch.where(group, mass, other_mass), own


def _plain(s: Tensor, t: Tensor, group: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the three parts in a form that autograd can follow twice."""
    masses = [
        torch.stack([soften(z, temperature).masked_fill(~part, -1e30).logsumexp(1) for part in (group, ~group)], 1)
        for z in (s, t)
    ]
    between, inside, outside = (
        KL.apply(*masses, 1.0, None),
        KL.apply(s, t, temperature, group),
        KL.apply(s, t, temperature, ~group),
    )
    return between, inside, outside
