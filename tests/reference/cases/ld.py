from typing import Any

import torch

from segkd.detection.atss import atss_assign
from segkd.detection.methods import LD
from segkd.detection.methods.ld import Localised, valuable_region

from ..levels import boxes_of, level_sizes, priors
from ..row import Row, grad_l2

OPTIONS = {
    "temperature": "temperature",
    "weight": "main_weight",
    "vlr_weight": "region_weight",
    "kd_temperature": "class_temperature",
    "kd_weight": "class_weight",
    "vlr": "region",
    "gamma": "gamma",
}


def figures(row: Row) -> dict[str, Any]:
    loss = LD(**{OPTIONS[key]: value for key, value in row.params.items()})
    squares, sizes = priors(row), level_sizes(row)
    boxes = [boxes_of(each) for each in row.raw["boxes"]]
    positive = torch.stack([atss_assign(squares, sizes, each) >= 0 for each in boxes])
    region = torch.stack([valuable_region(squares, sizes, each, loss.gamma, loss.region) for each in boxes])
    box, cls = (row.inputs[f"student_{name}"].requires_grad_() for name in ("box", "cls"))
    rows = (box, row.inputs["teacher_box"], cls, row.inputs["teacher_cls"])
    parts = loss.parts_of(*rows, Localised(positive, region, sizes))
    levels = zip(*(x.split(sizes, 1) for x in (*rows, positive, region)), strict=True)
    per_level = [loss.parts_of(*level[:4], Localised(*level[4:], [level[0].shape[1]])) for level in levels]
    return {
        "value": sum(parts.values()).item(),
        "parts": {
            "ld": parts["main"].item(),
            "ld_vlr": parts["region"].item(),
            "kd": parts["class"].item(),
            "ld_box_grad_l2": grad_l2(parts["main"], [box]),
            "ld_vlr_box_grad_l2": grad_l2(parts["region"], [box]),
            "kd_cls_grad_l2": grad_l2(parts["class"], [cls]),
            "ld_and_vlr_cls_grad_l2": grad_l2(parts["main"] + parts["region"], [cls]),
            "per_level": [[part.item() for part in level.values()] for level in per_level],
            "weight_sum": cls.detach()[positive].sigmoid().amax(-1).sum().item(),
            "positives": positive.sum(1).tolist(),
            "vlr_cells": (region > 0).sum(1).tolist(),
            "vlr_weight_sum": region.sum(1).tolist(),
            "vlr_weight_l2": region.norm().item(),
        },
    }
