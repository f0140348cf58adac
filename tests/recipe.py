"""The tensors of the reference figures' recipes, for tests that want some that are the same everywhere."""

from reference.row import labels, normal, uniform

__all__ = ["labels", "normal", "uniform"]
