from typing import Any

import torch
from torch import Tensor

from segkd.detection.methods.crosskd_two_stage import best_class_l1
from segkd.detection.output import TwoStageOutput
from segkd.losses import quality_focal_kd

SHRINK = 4
"""At the full size plain autograd keeps more than 2 GB, and a run takes half a minute."""


def plain(loss: Any, student: TwoStageOutput, teacher: TwoStageOutput, target: Any) -> Tensor:
    heads, names = teacher.detector.roi_heads, [*teacher.named][:4]
    of_student = {name: student.named[name] for name in names}
    crossed = predictions(heads, of_student, student)
    with torch.no_grad():
        own = predictions(heads, teacher.named, student)
    r, t = (x[0] / loss.temperature for x in (crossed, own))
    kl = (t.softmax(1) * (t.log_softmax(1) - r.log_softmax(1))).sum(1).mean() * loss.temperature**2
    r, t = (x[1].unflatten(1, (-1, 4))[:, 1:] for x in (crossed, own))
    box = best_class_l1(r, t, own[0].softmax(1)[:, 1:])
    mask = quality_focal_kd(*(x[2][:, 1:].movedim(1, -1) for x in (crossed, own)), avg_factor=len(r))
    return loss.class_weight * kl + loss.box_weight * box + loss.mask_weight * mask


def predictions(heads: Any, maps: dict[str, Tensor], student: TwoStageOutput) -> tuple[Tensor, Tensor, Tensor]:
    sizes, regions = student.images.image_sizes, student.regions
    assert regions is not None
    pooled = heads.box_roi_pool(maps, regions.all, sizes)
    masks = heads.mask_head(heads.mask_roi_pool(maps, regions.with_object, sizes))
    return *heads.box_predictor(heads.box_head(pooled)), heads.mask_predictor(masks)
