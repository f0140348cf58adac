from typing import Any

import torch
from torch import Tensor

from segkd.detection.methods.pgd import importance

from ..levels import boxes_of, priors
from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    squares, reach = priors(row), row.inputs["teacher_reach"]
    places = (squares[:, :2] + squares[:, 2:]) / 2
    predicted = torch.cat([places - reach[:, :2], places + reach[:, 2:]], 1)
    found = importance(
        row.inputs["teacher_cls"].sigmoid(),
        predicted,
        places,
        boxes_of(row.raw["boxes"]),
        torch.tensor(row.raw["labels"], dtype=torch.int64),
        row.params["alpha_cls"],
        row.params["alpha_reg"],
        row.params["topk"],
        0.1 * (row.inputs["noise"] - 0.5) if row.params["noise"] == "drawn" else None,
        row.params["covariance_floor"],
    )
    return {
        "parts": {
            "cls": described(found.classes),
            "reg": described(found.boxes),
            "background_cells": int(found.background.sum()),
        }
    }


def described(weights: Tensor) -> dict[str, Any]:
    cells = weights.nonzero()[:, 0].tolist()
    return {
        "cells": len(cells),
        "sum": weights.sum().item(),
        "l2": weights.norm().item(),
        "first": cells[0] if cells else -1,
    }
