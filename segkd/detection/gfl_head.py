"""The head of GFL: scores that mean box quality, box sides as distributions."""

import torch
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss

from segkd.detection.gfl_losses import BINS, distribution_focal_loss, quality_focal_loss
from segkd.detection.priors import decode, encode
from segkd.detection.towers import Matched, TowersHead
from segkd.losses._rows import over_processes, weighted_sum

GIOU_WEIGHT, DFL_WEIGHT = 2.0, 0.25


def paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Return (N,), the IoU of each box (N, 4) with the other (N, 4) at its index, xyxy; one of the two has an area."""
    sides = torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])
    shared = sides.clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (others[:, 2:] - others[:, :2]).prod(1)
    return shared / (areas - shared)


class GFLHead(TowersHead):
    """`TowersHead` that predicts each side of a box as a distribution over 17 distances."""

    sides = 4 * BINS

    def losses(self, outputs: dict[str, Tensor], matched: Matched) -> dict[str, Tensor]:
        """Return ``"classification"`` (QFL), ``"bbox_regression"`` (2 * GIoU) and ``"distribution"`` (0.25 * DFL).

        QFL is divided by the sum over images of max(1, positives). GIoU and DFL are weighted by the positives' best
        class score v and divided by max(1, sum of v).
        """
        logits, positive = outputs["cls_logits"], matched.positive
        sides = outputs["bbox_regression"][positive]
        predicted = decode(sides, matched.priors)
        scores = torch.zeros_like(positive, dtype=logits.dtype)
        scores[positive] = paired_iou(predicted.detach(), matched.boxes)
        certainty = logits.detach()[positive].sigmoid().amax(1)
        total = over_processes(certainty.sum(), self.per_process, least=1)

        giou = generalized_box_iou_loss(predicted, matched.boxes)
        # Below the last bin, so that there is one above.
        distances = encode(matched.boxes, matched.priors).clamp(0, BINS - 1.1)
        return {
            "classification": quality_focal_loss(
                logits.flatten(0, 1),
                matched.classes.flatten(),
                scores.flatten(),
                matched.takes_part.flatten(),
                avg_factor=over_processes(positive.sum(1).clamp(min=1).sum(), self.per_process),
            ),
            "bbox_regression": GIOU_WEIGHT * weighted_sum(giou, certainty, total),
            "distribution": DFL_WEIGHT
            * distribution_focal_loss(
                sides.reshape(-1, BINS), distances.flatten(), certainty.repeat_interleave(4), 4 * total
            ),
        }

    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return the expected IoU of each prior's box, as its class's score (..., K)."""
        return outputs["cls_logits"].sigmoid()

    def decode(self, regression: Tensor, priors: Tensor) -> Tensor:
        """Return boxes (..., 4), see `segkd.detection.priors.decode`."""
        return decode(regression, priors)
