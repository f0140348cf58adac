"""The priors of an image of 320 x 256 pixels."""

import torch

# Stride, rows and columns of the FPN maps of an image of 320 x 256 pixels.
MAPS = ((8, 32, 40), (16, 16, 20), (32, 8, 10), (64, 4, 5), (128, 2, 3))
LEVEL_SIZES = [rows * columns for _, rows, columns in MAPS]


def _squares(stride: int, rows: int, columns: int) -> list[list[int]]:
    half = 4 * stride
    centres = [(x * stride, y * stride) for y in range(rows) for x in range(columns)]
    return [[x - half, y - half, x + half, y + half] for x, y in centres]


PRIORS = torch.tensor([square for level in MAPS for square in _squares(*level)], dtype=torch.float32)
