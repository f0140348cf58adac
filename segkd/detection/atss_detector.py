"""ATSS (Zhang et al., arXiv 1912.02424): RetinaNet with one prior a cell, centerness, and samples chosen adaptively."""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from segkd.detection.one_stage import OneStage
from segkd.detection.priors import centerness, encode
from segkd.detection.towers import Matched, TowersHead, start
from segkd.losses._rows import over_processes, weighted_sum

GIOU_WEIGHT = 2.0
EPS = 1e-6


class ATSSHead(TowersHead):
    """`TowersHead` that predicts a box as its offset from the prior, and with it how central the prior lies in it."""

    sides = 4

    def __init__(self, in_channels: int, num_classes: int, groups: int = 32, per_process: bool = False) -> None:
        super().__init__(in_channels, num_classes, groups, per_process)
        self.centerness_predictor = nn.Conv2d(in_channels, 1, 3, padding=1)
        start(self.centerness_predictor)
        # Offsets of centres over a tenth, and logarithms of sides over a fifth of the prior's.
        self.box_coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))

    def predict_boxes(self, feature: Tensor, level: int) -> dict[str, Tensor]:
        """Return ``"bbox_regression"`` (B, 4, h, w) and ``"bbox_ctrness"`` (B, 1, h, w), logits."""
        return {**super().predict_boxes(feature, level), "bbox_ctrness": self.centerness_predictor(feature)}

    def losses(self, outputs: dict[str, Tensor], matched: Matched) -> dict[str, Tensor]:
        """Return ``"classification"`` (focal), ``"bbox_regression"`` (2 * GIoU) and ``"bbox_ctrness"`` (cross-entropy).

        GIoU is weighted by the positives' centerness c and divided by the sum of c; the others are divided by the
        number of positives, at least 1.
        """
        logits, positive = outputs["cls_logits"], matched.positive
        target = F.one_hot(matched.classes, self.num_classes + 1)[..., :-1].to(logits.dtype)
        central = centerness(encode(matched.boxes, matched.priors))
        giou = generalized_box_iou_loss(
            self.decode(outputs["bbox_regression"][positive], matched.priors), matched.boxes
        )
        ctrness = F.binary_cross_entropy_with_logits(outputs["bbox_ctrness"][positive][:, 0], central, reduction="none")
        count = over_processes(positive.sum(), self.per_process, least=1)
        total = over_processes(central.sum(), self.per_process, least=EPS)
        return {
            "classification": weighted_sum(sigmoid_focal_loss(logits, target).sum(-1), matched.takes_part, count),
            "bbox_regression": GIOU_WEIGHT * weighted_sum(giou, central, total),
            "bbox_ctrness": weighted_sum(ctrness, None, count),
        }

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return the geometric mean of class probability and centerness (..., K)."""
        return (outputs["cls_logits"].sigmoid() * outputs["bbox_ctrness"].sigmoid()).sqrt()

    def decode(self, regression: Tensor, priors: Tensor) -> Tensor:
        """Return boxes (..., 4), xyxy in pixels, of offsets (..., 4)."""
        return self.box_coder.decode_single(regression.reshape(-1, 4), priors.reshape(-1, 4)).view_as(priors)


class ATSS(OneStage):
    """RetinaNet's towers with GroupNorm, one prior per cell, matched by ATSS, and a branch of centerness.

    Its losses are focal loss, GIoU loss weighted 2 and binary cross-entropy of centerness, as published. A score is the
    square root of class probability times centerness, as torchvision's FCOS has it, which ``score_thresh`` is of.

    Args:
        backbone: maps (B, 3, H, W) to an ordered dict of FPN maps P3..P7 (strides 8..128), each of
            ``backbone.out_channels`` channels, a multiple of 32 from 64 on.
        num_classes: K, without background.
        settings: of torchvision's FCOS, under its names, such as ``min_size`` and ``score_thresh``.
        per_process: whether each process of a distributed run divides its losses by its own figures.

    Raises:
        SegkdError: the backbone has no ``out_channels``, or not such a multiple, or there is no class.

    Reference: Zhang et al., "Bridging the Gap Between Anchor-based and Anchor-free Detection via Adaptive Training
    Sample Selection", arXiv 1912.02424.
    """

    head_type = ATSSHead
