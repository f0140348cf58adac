"""RetinaNet with ATSS in place of IoU thresholds."""

from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator

from segkd.detection.atss import atss_assign
from segkd.detection.priors import SIDE, STRIDES, SquarePriors, centres_and_strides


class ATSSRetinaNet(RetinaNet):
    """torchvision's RetinaNet with one square anchor per cell (side 8 * stride), matched by ATSS (arXiv 1912.02424).

    Args:
        backbone: gives FPN maps P3..P7, strides 8..128.
        num_classes: with background, as for `RetinaNet`.
        settings: of `RetinaNet`, but for its anchors and its IoU thresholds.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, **settings: Any) -> None:
        sizes = tuple((SIDE * stride,) for stride in STRIDES)
        super().__init__(backbone, num_classes, anchor_generator=AnchorGenerator(sizes, ((1.0,),) * 5), **settings)
        self.anchor_generator = SquarePriors()  # of strides that do not depend on the image's size

    def compute_loss(
        self, targets: list[dict[str, Tensor]], head_outputs: dict[str, Tensor], anchors: list[Tensor]
    ) -> dict[str, Tensor]:
        """Return the head's losses on what `atss_assign` matches, as `RetinaNet.compute_loss` does on its own matches.

        Args:
            targets: per image ``"boxes"``, (M, 4), and ``"labels"``, (M,).
            head_outputs: what the head returns.
            anchors: the priors of each image, (N, 4), level by level.
        """
        strides = centres_and_strides(anchors[0])[1].flatten()
        level_sizes = strides.unique_consecutive(return_counts=True)[1].tolist()
        matched_idxs = [
            atss_assign(priors, level_sizes, target["boxes"]) for priors, target in zip(anchors, targets, strict=True)
        ]
        return self.head.compute_loss(targets, head_outputs, anchors, matched_idxs)
