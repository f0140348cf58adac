"""What the heads with one prior a cell share: two towers for all FPN levels, and which prior learns which box."""

import math
from abc import abstractmethod
from functools import partial
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from segkd.detection.priors import STRIDES
from segkd.errors import SegkdError
from segkd.losses._common import full_precision

BLOCKS = 4
PADDING = -2  # what a prior in a batch's padding has in place of its box's index


def _tower(channels: int, groups: int) -> nn.Sequential:
    norm = partial(nn.GroupNorm, groups)
    return nn.Sequential(*(Conv2dNormActivation(channels, channels, norm_layer=norm) for _ in range(BLOCKS)))


def rows(x: Tensor) -> Tensor:
    """Return (B, h*w, C) of (B, C, h, w), row by row."""
    return x.flatten(2).transpose(1, 2)


class Matched(NamedTuple):
    """What the priors of a batch learn; P of them have a box.

    Attributes:
        takes_part: (B, N) bool, false in a batch's padding.
        positive: (B, N) bool, those that have a box.
        classes: (B, N) int64, 0..K-1 of the positive ones, K of the others.
        priors: (P, 4), the positive ones themselves,
        boxes: (P, 4), and the boxes that they have, both xyxy in pixels.
    """

    takes_part: Tensor
    positive: Tensor
    classes: Tensor
    priors: Tensor
    boxes: Tensor


class TowersHead(nn.Module):
    """Class and box towers of four blocks (3x3 convolution, GroupNorm, ReLU) with a 3x3 predictor each.

    A feature taken after i blocks of a tower goes through the rest as ``class_predictor(class_tower[i:](x))`` and
    ``predict_boxes(box_tower[i:](x), level)``; ``scales`` (5,) is the learnt factor on the box predictions of each
    level. ``per_process``: whether each process of a distributed run divides its losses by its own figures.
    """

    sides: ClassVar[int]
    """How many values of each prior describe its box."""

    def __init__(self, in_channels: int, num_classes: int, groups: int = 32, per_process: bool = False) -> None:
        super().__init__()
        # A group of one channel has a single value on a 1x1 map, which PyTorch refuses to normalise.
        if in_channels % groups or in_channels < 2 * groups:
            raise SegkdError(
                f"{type(self).__name__} normalises in {groups} groups of at least 2 channels; the FPN's {in_channels} "
                f"channels must be a multiple of {groups} from {2 * groups} on"
            )
        if num_classes < 1:
            raise SegkdError(f"num_classes counts the foreground and must be at least 1, got {num_classes}")
        self.num_classes, self.per_process = num_classes, per_process
        self.class_tower, self.box_tower = _tower(in_channels, groups), _tower(in_channels, groups)
        self.class_predictor = nn.Conv2d(in_channels, num_classes, 3, padding=1)
        self.box_predictor = nn.Conv2d(in_channels, self.sides, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(STRIDES)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                start(module)
        nn.init.constant_(self.class_predictor.get_parameter("bias"), -math.log(99))  # every score starts at 0.01

    def predict_sides(self, feature: Tensor, level: int) -> Tensor:
        """Return what describes boxes (B, sides, h, w), at least in float32, from the box tower's last feature."""
        with full_precision(self.box_predictor(feature)) as (predicted,):
            return predicted * self.scales[level]

    def predict_boxes(self, feature: Tensor, level: int) -> dict[str, Tensor]:
        """Return all maps that the box tower's last feature gives, by the names that `forward` has."""
        return {"bbox_regression": self.predict_sides(feature, level)}

    def forward(self, features: list[Tensor]) -> dict[str, Tensor]:
        """Return of P3..P7, level by level, row by row, ``"cls_logits"`` (B, N, K), ``"bbox_regression"`` (B, N, sides)

        and what else `predict_boxes` does.
        """
        levels = [
            {"cls_logits": self.class_predictor(self.class_tower(x)), **self.predict_boxes(self.box_tower(x), level)}
            for level, x in enumerate(features)
        ]
        return {name: torch.cat([rows(maps[name]) for maps in levels], 1) for name in levels[0]}

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Return the losses on what `forward` returned, see `losses`, in float32 also under autocast.

        ``matched_idxs`` have of each prior its box, -1 for none, -2 for a prior that takes no part. In a distributed
        run the losses are divided by the mean over processes of their figures, so that the losses' mean is divided by
        what all images together give, or with ``per_process`` each by its own. Without any positive the box losses are
        0 and still reach the parameters, so that such a run does not hang.
        """
        with full_precision(*head_outputs.values()) as values:
            outputs = dict(zip(head_outputs, values, strict=True))
            assigned = torch.stack(matched_idxs)
            positive = assigned >= 0
            pairs = list(zip(targets, matched_idxs, strict=True))
            boxes = torch.cat([target["boxes"][index[index >= 0]] for target, index in pairs])
            classes = torch.full_like(assigned, self.num_classes)
            classes[positive] = torch.cat([target["labels"][index[index >= 0]] for target, index in pairs]) - 1
            boxes, priors = boxes.to(outputs["cls_logits"].dtype), torch.stack(anchors)[positive]
            return self.losses(outputs, Matched(assigned != PADDING, positive, classes, priors, boxes))

    @abstractmethod
    def losses(self, outputs: dict[str, Tensor], matched: Matched) -> dict[str, Tensor]:
        """Return the losses by name, scalars, of what `forward` returned, in float32 or more."""

    @abstractmethod
    def scores(self, outputs: dict[str, Tensor]) -> Tensor:
        """Return the score (..., K) of each prior and class, in [0, 1]."""

    @abstractmethod
    def decode(self, regression: Tensor, priors: Tensor) -> Tensor:
        """Return boxes (..., 4), xyxy in pixels, not clipped, of (..., sides) and priors (..., 4)."""


def start(predictor: nn.Conv2d) -> None:
    """Draw a convolution's first weights, all near 0."""
    nn.init.normal_(predictor.weight, std=0.01)
    if predictor.bias is not None:
        nn.init.zeros_(predictor.bias)
