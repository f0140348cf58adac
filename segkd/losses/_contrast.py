"""A KL divergence of similarities to many vectors, which never holds the matrix of all of them: for CIRKD."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = {"cpu": 2**20}
"""Similarities that are worked on at once, by device: a few matrices of so many."""


class ContrastKL(torch.autograd.Function):
    """The sum over anchors a and groups g of w_a * KL(softmax_m(t_a . t_gm / T) || softmax_m(s_a . s_gm / T)).

    Its slope is taken along, a block of anchors at a time: with d = w (p_s - p_t) / T that of an anchor is d S, that of
    the vectors of the groups, S, is the sum of d^T s. What is kept for backward has the size of the vectors, however
    many similarities there are.
    """

    @staticmethod
    def forward(
        ctx: Any, s: Tensor, s_groups: Tensor, t: Tensor, t_groups: Tensor, weight: Tensor, temperature: float
    ) -> Tensor:
        """Return a scalar.

        Args:
            ctx: autograd's.
            s: (A, D) the student's anchors, float32 or float64.
            s_groups: (G, M, D) what they are compared with, in G groups that have a softmax each.
            t: (A, E) the teacher's anchors, without gradient.
            t_groups: (G, M, E), without gradient.
            weight: (A,) of each anchor, without gradient.
            temperature: divides the similarities.
        """
        groups, count = s_groups.shape[:2]
        of_s, of_t = s_groups.flatten(0, 1), t_groups.flatten(0, 1)
        slope = torch.empty_like(s) if ctx.needs_input_grad[0] else None
        slope_groups = torch.zeros_like(of_s) if ctx.needs_input_grad[1] else None
        total = s.new_zeros(())
        for rows in _blocks(len(s), groups * count, s.device):
            log_s, log_t = (
                F.log_softmax((x[rows] @ y.T).div_(temperature).view(-1, groups, count), -1)
                for x, y in ((s, of_s), (t, of_t))
            )
            p_t = log_t.exp()
            total += (log_t.sub_(log_s).mul_(p_t).sum((1, 2)) * weight[rows]).sum()
            if slope is not None or slope_groups is not None:
                d = log_s.exp_().sub_(p_t).mul_((weight[rows] / temperature)[:, None, None]).flatten(1)
                if slope is not None:
                    slope[rows] = d @ of_s
                if slope_groups is not None:
                    slope_groups.addmm_(d.T, s[rows])
        ctx.save_for_backward(slope, slope_groups)
        ctx.shape = s_groups.shape
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the student's anchors and groups."""
        slope, slope_groups = (None if x is None else x * grad for x in ctx.saved_tensors)
        return slope, None if slope_groups is None else slope_groups.view(ctx.shape), None, None, None, None


def _blocks(anchors: int, contrasts: int, device: torch.device) -> Iterator[slice]:
    rows = max(BLOCK.get(device.type, 2**24) // max(contrasts, 1), 1)
    for start in range(0, anchors, rows):
        yield slice(start, start + rows)
