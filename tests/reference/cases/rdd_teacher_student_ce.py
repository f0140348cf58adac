from typing import Any

import torch.nn.functional as F

from segkd.weighting import RelativeDifficulty

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    options = dict(row.params)
    aligned, of_classes = options.pop("align_corners"), options.pop("class_weights")
    target = row.inputs["target"]
    weights = RelativeDifficulty(switch=0.0, **options)(row.student.detach(), row.teacher, None, target, 0.5)
    size = tuple(target.shape[1:])
    logits = F.interpolate(row.student, size=size, mode="bilinear", align_corners=aligned)
    of_classes = None if of_classes is None else logits.new_tensor(of_classes)
    loss = F.cross_entropy(logits, target, weight=of_classes, ignore_index=255, reduction="none")
    return row.figures((loss * weights.scaled).sum())
