"""Gradients of several losses with respect to the leaves of their graph, and a loss with known gradients."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gradients_of(value: Tensor, leaves: list[Tensor]) -> dict[Tensor, Tensor]:
    """Return a scalar's gradient with respect to each leaf that it depends on, by leaf."""
    if not value.requires_grad or not leaves:
        return {}
    # Small gradients vanish in float16, and GradScaler scales the final loss only.
    scale = 1024.0 if torch.is_autocast_enabled(value.device.type) else 1.0
    found = torch.autograd.grad(value * scale, leaves, retain_graph=True, allow_unused=True)
    return {leaf: each / scale for leaf, each in zip(leaves, found, strict=True) if each is not None}


def norm_of(gradients: dict[Tensor, Tensor], parameters: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of a gradient over all these parameters together; 0 where none has one."""
    norms = [torch.linalg.vector_norm(gradients[each]) for each in parameters if each in gradients]
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0]) for norm in norms])) if norms else torch.zeros(())


def leaves_of(values: list[Tensor]) -> list[Tensor]:
    """Return the leaves of these values' graphs: parameters, and other tensors that require a gradient."""
    nodes = [value.grad_fn for value in values if value.grad_fn is not None]
    seen, found = set(nodes), [value for value in values if value.is_leaf and value.requires_grad]
    while nodes:
        node = nodes.pop()
        if (leaf := getattr(node, "variable", None)) is not None:
            found.append(leaf)
        for each, _ in node.next_functions:
            if each is not None and each not in seen:
                seen.add(each)
                nodes.append(each)
    return found


def with_gradients(value: Tensor, gradients: list[dict[Tensor, Tensor]], factors: list[float]) -> Tensor:
    """Return a scalar with known gradients: the sum of these, each times its factor."""
    total: dict[Tensor, Tensor] = {}
    for factor, each in zip(factors, gradients, strict=True):
        for leaf, gradient in each.items():
            total[leaf] = total[leaf] + factor * gradient if leaf in total else factor * gradient
    known: Tensor = _Known.apply(value.detach(), list(total.values()), *total)
    return known


class _Known(torch.autograd.Function):
    """A scalar with given gradients with respect to the leaves."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(gradient.to(each) * each for each in ctx.gradients))
