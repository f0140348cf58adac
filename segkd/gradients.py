"""Gradients of several losses by the same leaves of their graph, and a loss whose gradients are known already."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def gradients_of(value: Tensor, leaves: list[Tensor]) -> dict[Tensor, Tensor]:
    """Return a scalar's gradient by each leaf that it depends on."""
    if not value.requires_grad or not leaves:
        return {}
    # In float16 small gradients vanish: GradScaler scales the sum, which this is not part of.
    scale = 1024.0 if torch.is_autocast_enabled(value.device.type) else 1.0
    found = torch.autograd.grad(value * scale, leaves, retain_graph=True, allow_unused=True)
    return {leaf: each / scale for leaf, each in zip(leaves, found, strict=True) if each is not None}


def norm_of(gradients: dict[Tensor, Tensor], parameters: list[Tensor]) -> Tensor:
    """Return the Euclidean norm of a gradient over all these parameters; 0 where it has none."""
    norms = [torch.linalg.vector_norm(gradients[each]) for each in parameters if each in gradients]
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0]) for norm in norms])) if norms else torch.zeros(())


def leaves_of(values: list[Tensor]) -> list[Tensor]:
    """Return what a backward pass from these ends at: parameters, and all else that takes a gradient."""
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
    """Return a scalar whose gradients are known: a weighted sum of these."""
    total: dict[Tensor, Tensor] = {}
    for factor, each in zip(factors, gradients, strict=True):
        for leaf, gradient in each.items():
            total[leaf] = total[leaf] + factor * gradient if leaf in total else factor * gradient
    known: Tensor = _Known.apply(value.detach(), list(total.values()), *total)
    return known


class _Known(torch.autograd.Function):
    """A scalar, and what its gradients by the leaves are."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *leaves: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(gradient.to(each) * each for each in ctx.gradients))
