"""A KL divergence of softmaxes with its slope taken along: pixel-wise and channel-wise distillation are made of it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from segkd.losses._common import full_precision, masked_log_softmax, soften

CACHED = 2**18
"""Values that are worked on at once on a CPU: a few temporaries of so many stay in its cache."""


class KL(torch.autograd.Function):
    """KL(softmax(t / T) || softmax(s / T)) over dim 1, its slope taken along: p_s - p_t, and p_t (log p_t/p_s - KL).

    Plain autograd gives the same numbers with twice as many temporaries of the map's size and keeps two for backward
    where one will do; fetching that memory is most of what such a loss costs. For the same reason a part of the rows is
    taken at a time: the temporaries of one are small enough to be used again.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float, valid: Tensor | None) -> Tensor:
        """Return (R, ...) from (R, K, ...), in full precision.

        With ``valid``, bool (R / n, K), n rows in turn share one of it: what is not valid is left out of the softmax.
        """
        kind = torch.promote_types(student.dtype, torch.float32)
        kl = student.new_empty((student.shape[0], *student.shape[2:]), dtype=kind)
        slope_s = torch.empty_like(student, dtype=kind) if ctx.needs_input_grad[0] else None
        slope_t = torch.empty_like(teacher, dtype=kind) if ctx.needs_input_grad[1] else None
        for rows in parts(student):
            keep = _keep(valid, student, rows)
            log_s, log_t = (
                masked_log_softmax(soften(x[rows].to(kind), temperature), keep, 1) for x in (student, teacher)
            )
            p_t = log_t.exp()
            if keep is not None:
                p_t *= keep
            of_values = log_t.sub_(log_s).mul_(p_t)
            torch.sum(of_values, 1, out=kl[rows])
            if slope_s is not None:
                p_s = log_s.exp_()
                torch.sub(p_s if keep is None else p_s.mul_(keep), p_t, out=slope_s[rows])
            if slope_t is not None:
                torch.sub(of_values, p_t.mul_(kl[rows].unsqueeze(1)), out=slope_t[rows])
        # The inputs are the models' own outputs, which are alive anyway.
        ctx.save_for_backward(student, teacher, valid, slope_s, slope_t)
        ctx.temperature = temperature
        return kl

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of both."""
        student, teacher, valid, *slopes = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: they are to be differentiated themselves
            found = _slopes(student, teacher, ctx.temperature, _keep(valid, student, slice(None)))
            slopes = [None if slope is None else plain for slope, plain in zip(slopes, found, strict=True)]
        grad = soften(grad, ctx.temperature).unsqueeze(1)
        pairs = zip(slopes, (student, teacher), strict=True)
        return *(None if slope is None else (slope * grad).to(x.dtype) for slope, x in pairs), None, None


def parts(x: Tensor) -> Iterator[slice]:
    """Yield slices of the first dimension: of a few rows that fit a CPU's cache, of all on other devices."""
    rows = max(CACHED // max(x[:1].numel(), 1), 1) if x.device.type == "cpu" else max(len(x), 1)
    for start in range(0, len(x), rows):
        yield slice(start, start + rows)


def _keep(valid: Tensor | None, x: Tensor, rows: slice) -> Tensor | None:
    if valid is None:
        return None
    numbers = torch.arange(len(x), device=x.device)[rows]
    return valid[numbers // (len(x) // len(valid))].to(torch.promote_types(x.dtype, torch.float32))


def _slopes(student: Tensor, teacher: Tensor, temperature: float, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what `KL` multiplies the gradients by, in a form that autograd can follow."""
    with full_precision(student, teacher) as (s, t):
        log_s, log_t = (masked_log_softmax(soften(x, temperature), keep, 1) for x in (s, t))
        p_s, p_t = (log_p.exp() if keep is None else log_p.exp() * keep for log_p in (log_s, log_t))
        difference = log_t - log_s
        return p_s - p_t, p_t * (difference - (p_t * difference).sum(1, keepdim=True))
