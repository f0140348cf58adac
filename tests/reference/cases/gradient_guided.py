from typing import Any

import torch

from segkd.detection.methods import GradientGuided
from segkd.detection.methods.gradient_guided import activation_map

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    sides = {"student": row.student, "teacher": row.teacher.clone()}
    slopes = {}
    for side, x in sides.items():
        if "task" in row.params:  # the loss is sum(R * tanh(A))
            at = x.detach().requires_grad_()
            (slopes[side],) = torch.autograd.grad((row.inputs[f"{side}_task"] * at.tanh()).sum(), at)
        else:
            slopes[side] = row.inputs[f"{side}_gradient"].clone()
    nothing = row.params.get("zero_teacher_gradient_image")
    if nothing is not None:
        slopes["teacher"][nothing] = 0
    variant = row.params["variant"]
    value = GradientGuided(variant=variant).of_level(*sides.values(), *slopes.values())
    maps = {side: activation_map(x.detach(), slopes[side], variant) for side, x in sides.items()}
    parts = {f"{side}_map_sum": found.sum().item() for side, found in maps.items()}
    return {**row.figures(value), "parts": {**parts, "teacher_map_l2": maps["teacher"].norm().item()}}
