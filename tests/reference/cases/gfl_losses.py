from typing import Any

import numpy as np
import torch

from segkd.detection.gfl import distribution_focal_loss, integral, quality_focal_loss

from ..row import Row, grad_l2, normal, uniform


def figures(row: Row) -> dict[str, Any]:
    given = row.expected["all"]
    seed, count, classes = (given[key] for key in ("base_seed", "rows", "classes"))
    logits = normal(seed + 1, [count, classes], 2.0).requires_grad_()
    labels = torch.from_numpy(np.random.default_rng(seed + 2).integers(0, classes + 1, count))
    weight = (uniform(seed + 4, count) > 0.2).double()
    quality = quality_focal_loss(logits, labels, uniform(seed + 3, count), weight, avg_factor=7)
    sides = normal(seed + 5, [4 * count, 17]).requires_grad_()
    distribution = distribution_focal_loss(sides, uniform(seed + 6, 4 * count, 0.0, 15.9), avg_factor=4)
    found = {
        "quality_focal_loss": quality.item(),
        "quality_focal_grad_l2": grad_l2(quality, [logits]),
        "distribution_focal_loss": distribution.item(),
        "distribution_focal_grad_l2": grad_l2(distribution, [sides]),
        "integral_sum": integral(sides).sum().item(),
    }
    return {"all": {"base_seed": seed, "rows": count, "classes": classes, **found}}
