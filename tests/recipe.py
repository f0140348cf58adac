"""Reference figures of the authors' released code, and the tensors they were computed on.

`reference/losses.json` holds each case's inputs as a recipe in numpy's random numbers, which are the same everywhere,
the loss in float64 and the L2 norm of its gradient with respect to the student.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

REFERENCE = Path(__file__).parent / "reference" / "losses.json"


def normal(seed: int, shape: list[int], scale: float = 1.0, shift: float = 0.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape) * scale + shift)


def labels(seed: int, shape: list[int], classes: int) -> Tensor:
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, classes, shape)
    drawn[generator.random(shape) < 0.1] = 255
    return torch.from_numpy(drawn)


def rows(name: str) -> list[dict[str, Any]]:
    """Return the reference cases of that name; there is at least one."""
    found = [row for row in json.loads(REFERENCE.read_text()) if row["name"] == name]
    assert found, name
    return found
