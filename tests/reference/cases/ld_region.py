from typing import Any

import torch

from segkd.detection.methods.ld import valuable_region

from ..levels import boxes_of, level_sizes, priors
from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    squares, sizes = priors(row), level_sizes(row)
    weights = [
        valuable_region(squares, sizes, boxes_of(boxes), row.params["gamma"], row.params["vlr"])
        for boxes in row.raw["boxes"]
    ]
    return {
        "parts": {
            "cells": [int((weight > 0).sum()) for weight in weights],
            "weight_sum": [weight.sum().item() for weight in weights],
            "weight_l2": torch.stack(weights).norm().item(),
        }
    }
