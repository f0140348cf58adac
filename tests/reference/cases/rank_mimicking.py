from typing import Any

import numpy as np
import torch

from segkd.detection.methods import RankMimicking

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    recipe, (_, priors, classes) = row.raw["inputs"], row.student.shape
    matched, labels = [], []
    for image, count in enumerate(row.raw["boxes_per_image"]):
        box, kind = (np.random.default_rng(recipe[name]["seed"] + image) for name in ("box_index", "labels"))
        low = recipe["box_index"]["low"]
        drawn = box.integers(low, count, priors) if count > low else np.full(priors, -1)
        matched.append(torch.from_numpy(drawn))
        labels.append(torch.from_numpy(kind.integers(0, classes, count)))
    used = sum(len(set(box[box >= 0].tolist())) for box in matched)
    value = RankMimicking(**row.params).of_priors(row.student, row.teacher, matched, labels)
    return {**row.figures(value), "parts": {"boxes_used": used}}
