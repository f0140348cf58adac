"""Priors and boxes of the rows of detection: ``levels`` (rows, columns) with ``strides``."""

import torch
from torch import Tensor

from .row import Row

SIDE = 8  # of a prior, in strides


def priors(row: Row) -> Tensor:
    """Return squares (N, 4) centred at (column * stride, row * stride), row by row, level by level."""
    found = []
    for (rows, columns), stride in zip(row.raw["levels"], row.raw["strides"], strict=True):
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        centres = torch.stack([x, y], -1).view(-1, 2).double() * stride
        found.append(torch.cat([centres - SIDE / 2 * stride, centres + SIDE / 2 * stride], 1))
    return torch.cat(found)


def level_sizes(row: Row) -> list[int]:
    return [rows * columns for rows, columns in row.raw["levels"]]


def boxes_of(given: list[list[float]]) -> Tensor:
    return torch.tensor(given, dtype=torch.float64).view(-1, 4)
