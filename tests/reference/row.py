"""A row of reference figures: its tensors, made from recipes, and what a method's case computes of them.

The recipes are numpy's random numbers, which are the same everywhere; all is float64.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# What a row of figures says beside its figures.
_INPUTS = {
    *("name", "params", "student", "teacher", "inputs", "targets", "weights", "boxes", "labels", "image_sizes"),
    *("padded_size", "levels", "strides", "classes", "boxes_per_image", "note", "source", "aux"),
}


def normal(seed: int, shape: list[int], scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape) * scale + shift)


def uniform(seed: int, shape: int | list[int], lo: float = 0.0, hi: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape) * (hi - lo) + lo)


def labels(seed: int, shape: list[int], classes: int, frac: float = 0.1) -> Tensor:
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, classes, shape)
    drawn[generator.random(shape) < frac] = 255
    return torch.from_numpy(drawn)


def blocks(seed: int, shape: list[int], classes: int, repeat: int, frac: float = 0.1) -> Tensor:
    return labels(seed, shape, classes, frac).repeat_interleave(repeat, 1).repeat_interleave(repeat, 2)


def constant(shape: list[int], value: float) -> Tensor:
    return torch.full(shape, value, dtype=torch.float64)


def votes(seed: int, n: int, pixels: int, classes: int, flip: float) -> Tensor:
    generator = np.random.default_rng(seed)
    own, flips = generator.integers(0, classes, pixels), generator.random(pixels) * flip
    flipped = generator.random((n, pixels)) < flips
    return torch.from_numpy(np.where(flipped, generator.integers(0, classes, (n, pixels)), own))


KINDS = {make.__name__: make for make in (normal, uniform, labels, blocks, constant, votes)}


def make(recipe: dict[str, Any]) -> Tensor:
    """Return the tensor of a recipe; without a ``kind`` it is normal, or labels where it has classes."""
    kind = recipe.get("kind", "labels" if "classes" in recipe else "normal")
    return KINDS[kind](**{key: value for key, value in recipe.items() if key != "kind"})


def grad_l2(value: Tensor, tensors: Iterable[Tensor]) -> float:
    """Return the L2 norm of a loss's gradient with respect to tensors, jointly; what it does not reach counts as 0."""
    if not value.requires_grad:
        return 0.0
    found = torch.autograd.grad(value, [*tensors], retain_graph=True, allow_unused=True)
    return sum(float(grad.square().sum()) for grad in found if grad is not None) ** 0.5


class Row:
    """One row: ``raw`` as the file has it, and its tensors by their names.

    ``student`` is a leaf that takes a gradient, as ``weights`` are, ``teacher`` is plain; ``inputs`` holds the other
    tensors (labels as ``inputs["target"]``).
    """

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw
        self.name: str = raw["name"]
        self.params: dict[str, Any] = raw["params"]

    @cached_property
    def student(self) -> Tensor:
        return make(self.raw["student"]).requires_grad_()

    @cached_property
    def teacher(self) -> Tensor:
        return make(self.raw["teacher"])

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        # Some recipes are not whole: their case makes those, from `raw`.
        recipes = {**self.raw.get("inputs", {}), **self.raw.get("targets", {})}
        return {key: make(recipe) for key, recipe in recipes.items() if "shape" in recipe or "n" in recipe}

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        return {key: make(recipe).requires_grad_() for key, recipe in self.raw.get("weights", {}).items()}

    @property
    def expected(self) -> dict[str, Any]:
        """What must be found."""
        figures: dict[str, Any] = self.raw.get("figures") or {k: v for k, v in self.raw.items() if k not in _INPUTS}
        return figures

    def put(self, module: nn.Module, **places: str) -> None:
        """Give a module the row's weights or inputs, by place: ``put(loss, **{"conv.weight": "conv1"})``.

        A module of another shape is an error, and so is a name that the row lacks.
        """
        own = dict(module.named_parameters()) | dict(module.named_buffers())
        with torch.no_grad():
            for place, name in places.items():
                given = self.weights[name] if name in self.weights else self.inputs[name]
                if own[place].numel() != given.numel():
                    raise ValueError(f"{place} is {tuple(own[place].shape)}, {name} {tuple(given.shape)}")
                own[place].copy_(given.view_as(own[place]))

    def figures(self, value: Tensor, *parameters: Tensor, **parts: Tensor) -> dict[str, Any]:
        """Return ``value``, the gradients' norms and each part with its own, as the rows of segmentation name them."""
        found: dict[str, Any] = {"value": value.item(), "student_grad_l2": grad_l2(value, [self.student])}
        if parameters:
            found["weights_grad_l2"] = grad_l2(value, parameters)
        for name, part in parts.items():
            found |= {name: part.item(), f"{name}_grad_l2": grad_l2(part, [self.student])}
        return found
