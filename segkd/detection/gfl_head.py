"""The head of GFL: two towers shared by all FPN levels, and the loss on their predictions."""

import math
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, generalized_box_iou_loss

from segkd.detection.gfl_losses import BINS, distribution_focal_loss, quality_focal_loss
from segkd.detection.priors import STRIDES, decode, encode
from segkd.errors import SegkdError
from segkd.losses._common import full_precision
from segkd.losses._rows import over_processes, weighted_sum

BLOCKS = 4
PADDING = -2  # what a prior in a batch's padding has in place of its box's index
GIOU_WEIGHT, DFL_WEIGHT = 2.0, 0.25


def _tower(channels: int, groups: int) -> nn.Sequential:
    norm = partial(nn.GroupNorm, groups)
    return nn.Sequential(*(Conv2dNormActivation(channels, channels, norm_layer=norm) for _ in range(BLOCKS)))


def _rows(x: Tensor) -> Tensor:
    """Return (B, h*w, C) of (B, C, h, w), row by row."""
    return x.flatten(2).transpose(1, 2)


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return (N,), the IoU of each box (N, 4) with the other (N, 4) at its index, xyxy; one of the two has an area."""
    sides = torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])
    shared = sides.clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1)
    return shared / (areas - shared)


class GFLHead(nn.Module):
    """Class and box towers of four blocks (3x3 convolution, GroupNorm, ReLU) with a 3x3 predictor each.

    A feature taken after i blocks of a tower goes through the rest as ``class_predictor(class_tower[i:](x))`` and
    ``predict_sides(box_tower[i:](x), level)``; ``scales`` (5,) is the learnt factor on the box logits of each level.
    ``per_process``: whether each process of a distributed run divides its losses by its own figures.
    """

    def __init__(self, in_channels: int, num_classes: int, groups: int = 32, per_process: bool = False) -> None:
        super().__init__()
        # A group of one channel has a single value on a 1x1 map, which PyTorch refuses to normalise.
        if in_channels % groups or in_channels < 2 * groups:
            raise SegkdError(
                f"GFL normalises in {groups} groups of at least 2 channels; the FPN's {in_channels} channels must be a "
                f"multiple of {groups} from {2 * groups} on"
            )
        if num_classes < 1:
            raise SegkdError(f"num_classes counts the foreground and must be at least 1, got {num_classes}")
        self.num_classes, self.per_process = num_classes, per_process
        self.class_tower, self.box_tower = _tower(in_channels, groups), _tower(in_channels, groups)
        self.class_predictor = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.box_predictor = nn.Conv2d(in_channels, 4 * BINS, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(STRIDES)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.class_predictor.get_parameter("bias"), -math.log(99))  # every score starts at 0.01

    def predict_sides(self, feature: Tensor, level: int) -> Tensor:
        """Return the box logits (B, 68, h, w) of a level, at least in float32, from the box tower's last feature."""
        with full_precision(self.box_predictor(feature)) as (logits,):
            return logits * self.scales[level]

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Return ``"cls_logits"`` (B, N, K), ``"bbox_regression"`` (B, N, 68) of P3..P7, level by level, row by row."""
        return {
            "cls_logits": torch.cat([_rows(self.class_predictor(self.class_tower(x))) for x in features], 1),
            "bbox_regression": torch.cat(
                [_rows(self.predict_sides(self.box_tower(x), level)) for level, x in enumerate(features)], 1
            ),
        }

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Return ``"classification"`` (QFL), ``"bbox_regression"`` (2 * GIoU) and ``"distribution"`` (0.25 * DFL).

        QFL is divided by the sum over images of max(1, positives). GIoU and DFL are weighted by the positives' best
        class score v and divided by max(1, sum of v). In a distributed run both figures are the mean over processes,
        so that the losses' mean is divided by what all images together give, or with ``per_process`` each its own.
        Without any positive the box losses are 0 and still reach the parameters, so that such a run does not hang.
        ``matched_idxs`` have of each prior its box, -1 for none, -2 for a prior that takes no part.
        """
        with full_precision(head_outputs["cls_logits"], head_outputs["bbox_regression"]) as (logits, regression):
            assigned = torch.stack(matched_idxs)
            positive = assigned >= 0
            pairs = list(zip(targets, matched_idxs, strict=True))
            boxes = torch.cat([target["boxes"][index[index >= 0]] for target, index in pairs]).to(logits.dtype)
            box_labels = torch.cat([target["labels"][index[index >= 0]] for target, index in pairs])
            priors, sides = torch.stack(anchors)[positive], regression[positive]
            predicted = decode(sides, priors)

            labels = torch.full_like(assigned, self.num_classes)
            labels[positive] = box_labels - 1
            scores = torch.zeros_like(assigned, dtype=logits.dtype)
            scores[positive] = paired_iou(predicted.detach(), boxes)
            certainty = logits.detach()[positive].sigmoid().amax(1)
            total = over_processes(certainty.sum(), self.per_process, least=1)

            giou = generalized_box_iou_loss(predicted, boxes)
            distances = encode(boxes, priors).clamp(0, BINS - 1.1)  # below the last bin, so that there is one above
            return {
                "classification": quality_focal_loss(
                    logits.flatten(0, 1),
                    labels.flatten(),
                    scores.flatten(),
                    (assigned != PADDING).flatten(),
                    avg_factor=over_processes(positive.sum(1).clamp(min=1).sum(), self.per_process),
                ),
                "bbox_regression": GIOU_WEIGHT * weighted_sum(giou, certainty, total),
                "distribution": DFL_WEIGHT
                * distribution_focal_loss(
                    sides.reshape(-1, BINS), distances.flatten(), certainty.repeat_interleave(4), 4 * total
                ),
            }
