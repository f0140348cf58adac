"""ATSS: adaptive training sample selection (Zhang et al., arXiv 1912.02424), which priors learn which box."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.ops import box_iou

from segkd.detection.priors import SquarePriors, centres_and_strides
from segkd.errors import SegkdError

INSIDE = 0.01  # how far inside its box a positive prior's centre lies at least, in pixels


def candidates_of(priors: Tensor, level_sizes: list[int], boxes: Tensor, topk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return of each box its candidates (M, C), their IoUs with it (M, C) and its threshold (M, 1).

    There is at least one prior and one box; see `atss_assign`.
    """
    prior_centres, box_centres = (priors[:, :2] + priors[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    distances = (box_centres[:, None] - prior_centres).square().sum(-1)
    nearest, start = [], 0
    for level in distances.split(list(level_sizes), 1):
        nearest.append(level.topk(min(topk, level.shape[1]), largest=False).indices + start)
        start += level.shape[1]
    candidates = torch.cat(nearest, 1)
    ious = box_iou(boxes, priors).gather(1, candidates)
    # A single candidate has no deviation.
    spread = ious.std(1, correction=min(1, ious.shape[1] - 1), keepdim=True)
    return candidates, ious, ious.mean(1, keepdim=True) + spread


@torch.no_grad()
def atss_assign(priors: Tensor, level_sizes: list[int], boxes: Tensor, topk: int = 9) -> Tensor:
    """Return the box that each prior is to learn.

    A box's candidates are, on each level, the ``topk`` priors whose centres are nearest its own (L2). Its threshold is
    the mean plus the standard deviation (unbiased) of the candidates' IoUs with it; positive are the candidates at or
    above the threshold whose centre lies inside the box. A prior that several boxes claim goes to the one of the
    highest IoU. A box without area, or with no centre inside it, gets no prior.

    Args:
        priors: (N, 4), xyxy in pixels, level by level.
        level_sizes: how many priors each level has; they add up to N. A level with fewer than ``topk`` gives them all.
        boxes: (M, 4), xyxy in pixels.
        topk: candidates per level and box, at least 1.

    Returns:
        (N,) int64, the index of the prior's box, -1 for none. Memory grows with N*M.

    Raises:
        SegkdError: shapes or level sizes do not fit, or topk is below 1.
    """
    for name, given in (("priors", priors), ("boxes", boxes)):
        if given.dim() != 2 or given.shape[1] != 4:
            raise SegkdError(f"atss_assign expects {name} (N, 4), got {tuple(given.shape)}")
    if sum(level_sizes) != len(priors):
        raise SegkdError(f"level_sizes {list(level_sizes)} must add up to the {len(priors)} priors")
    if topk < 1:
        raise SegkdError(f"topk must be at least 1, got {topk}")
    if len(boxes) == 0 or len(priors) == 0:
        return torch.full((len(priors),), -1, dtype=torch.int64, device=priors.device)

    boxes = boxes.to(priors)
    candidates, ious, threshold = candidates_of(priors, level_sizes, boxes, topk)
    centres = ((priors[:, :2] + priors[:, 2:]) / 2)[candidates]
    margins = torch.cat([centres - boxes[:, None, :2], boxes[:, None, 2:] - centres], -1).amin(-1)
    positive = (ious >= threshold) & (margins > INSIDE)

    claims = priors.new_full((len(boxes), len(priors)), -1).scatter_(1, candidates, torch.where(positive, ious, -1))
    highest, box = claims.max(0)
    return torch.where(highest >= 0, box, -1)


class ATSSRetinaNet(RetinaNet):
    """torchvision's RetinaNet with one square anchor per cell (side 8 * stride), matched by ATSS.

    Args:
        backbone: gives FPN maps P3..P7, strides 8..128.
        num_classes: with background, as for `RetinaNet`.
        settings: of `RetinaNet`, but for its anchors and its IoU thresholds.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, **settings: Any) -> None:
        super().__init__(backbone, num_classes, anchor_generator=SquarePriors(), **settings)

    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the head's losses on what `atss_assign` matches, as `RetinaNet.compute_loss` does on its own."""
        strides = centres_and_strides(anchors[0])[1].flatten()
        level_sizes = strides.unique_consecutive(return_counts=True)[1].tolist()
        matched_idxs = [
            atss_assign(priors, level_sizes, target["boxes"]) for priors, target in zip(anchors, targets, strict=True)
        ]
        return self.head.compute_loss(targets, head_outputs, anchors, matched_idxs)
