from typing import Any

import torch
from torchvision.models.detection.image_list import ImageList

from segkd.detection.methods import FGD
from segkd.detection.methods.fgd import background_mask, channel_attention, spatial_attention
from segkd.detection.output import DetectorOutput

from ..row import Row, grad_l2

STRIDE = 8
PARTS = {"fg": "foreground", "bg": "background", "attention": "attention", "global": "global"}


def figures(row: Row) -> dict[str, Any]:
    sizes = [(height, width) for height, width in row.raw["image_sizes"]]
    images = ImageList(torch.zeros(len(sizes), 3, 1, 1), sizes)
    student, teacher = (DetectorOutput(images, {STRIDE: x}) for x in (row.student, row.teacher))
    target = [{"boxes": torch.tensor(boxes, dtype=torch.float64).view(-1, 4)} for boxes in row.raw["boxes"]]
    loss = FGD(**row.params, variant="released").double()  # the figures' maps stand for the images' own sizes
    loss.prepare(student, teacher)
    level = loss.levels[str(STRIDE)].double()
    row.put(level, **{name: name for name in row.weights})
    value = loss(student, teacher, target)
    foreground = loss.foreground(student, target, STRIDE)
    terms = level(row.student, row.teacher, foreground, loss.temperature)
    return {
        "value": value.item(),
        "student_grad_l2": grad_l2(value, [row.student]),
        "weights_grad_l2": {name: grad_l2(value, [parameter]) for name, parameter in level.named_parameters()},
        "parts": {
            **{part: terms[name].item() for part, name in PARTS.items()},
            "mask_fg_sum": foreground.sum().item(),
            "mask_fg_cells": [int((mask > 0).sum()) for mask in foreground],
            "mask_fg_l2": foreground.norm().item(),
            "mask_bg_l2": torch.stack([background_mask(mask) for mask in foreground]).norm().item(),
            "spatial_attention_t_l2": spatial_attention(row.teacher, loss.temperature).norm().item(),
            "channel_attention_t_l2": channel_attention(row.teacher, loss.temperature).norm().item(),
        },
    }
