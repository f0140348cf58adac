from typing import Any

from segkd.detection.methods import PGD
from segkd.detection.methods.fgd import spatial_attention
from segkd.detection.methods.pgd import channel_shares

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    options = dict(row.params)
    level_weight, empty = options.pop("level_weight"), options.pop("empty_image")
    options["variant"] = "released" if options["variant"] == "released" else "paper"
    important = row.inputs["importance"] * (row.inputs["importance"] >= 0.7)
    if empty is not None:
        important[empty] = 0
    background = (row.inputs["background"] > 0.4).double()
    value = PGD(**options).class_branch(row.student, row.teacher, important, background, level_weight)
    return {
        **row.figures(value),
        "parts": {
            "fg_cells": int((important > 0).sum()),
            "spatial_attention_t_l2": spatial_attention(row.teacher, options["temperature"]).norm().item(),
            "channel_attention_t_l2": channel_shares(row.teacher, options["temperature"]).norm().item(),
        },
    }
