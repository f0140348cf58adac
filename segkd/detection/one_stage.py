"""A one-stage detector with one prior a cell, made to look like torchvision's: what GFL and ATSS share."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms, clip_boxes_to_image

from segkd.detection.atss import atss_assign
from segkd.detection.priors import SquarePriors, in_image, own_size
from segkd.detection.targets import check_batch
from segkd.detection.towers import PADDING, TowersHead
from segkd.errors import SegkdError
from segkd.losses._common import full_precision


class OneStage(nn.Module):
    """A detector with square priors, matched by ATSS; see `GFL` and `ATSS`, which differ in their heads."""

    head_type: ClassVar[type[TowersHead]]

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        min_size: int | tuple[int, ...] = 800,
        max_size: int = 1333,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        score_thresh: float = 0.05,
        nms_thresh: float = 0.6,
        detections_per_img: int = 100,
        topk_candidates: int = 1000,
        per_process: bool = False,
    ) -> None:
        super().__init__()
        channels = getattr(backbone, "out_channels", None)
        if not isinstance(channels, int):
            name = type(self).__name__
            raise SegkdError(f"{name}'s backbone needs an attribute out_channels, the channels of each of its FPN maps")
        self.transform = GeneralizedRCNNTransform(
            min_size, max_size, image_mean or [0.485, 0.456, 0.406], image_std or [0.229, 0.224, 0.225]
        )
        self.backbone = backbone
        self.head = self.head_type(channels, num_classes, per_process=per_process)
        self.anchor_generator = SquarePriors()
        self.score_thresh, self.nms_thresh = score_thresh, nms_thresh
        self.detections_per_img, self.topk_candidates = detections_per_img, topk_candidates

    def match(
        self,
        targets: list[dict[str, Tensor]],
        anchors: list[Tensor],
        num_anchors_per_level: list[int],
        image_shapes: list[tuple[int, int]] | None = None,
    ) -> list[Tensor]:
        """Return per image (N,) int64, the box that `atss_assign` gives each prior, -1 for none.

        Priors in what a batch pads a smaller image with are no candidates, and have -2; ``image_shapes`` are those
        of the transformed images without that padding, None where there is none.
        """
        matched = []
        for index, (priors, target) in enumerate(zip(anchors, targets, strict=True)):
            if image_shapes is None:
                matched.append(atss_assign(priors, num_anchors_per_level, target["boxes"]))
                continue
            own = in_image(priors, own_size(image_shapes[index], self.transform.size_divisible))
            level_sizes = torch.stack([level.sum() for level in own.split(num_anchors_per_level)]).tolist()
            box = torch.full((len(priors),), PADDING, device=priors.device)
            box[own] = atss_assign(priors[own], level_sizes, target["boxes"])
            matched.append(box)
        return matched

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        num_anchors_per_level: list[int],
        image_shapes: list[tuple[int, int]] | None = None,
    ) -> dict[str, Tensor]:
        """Return the head's losses on what `match` assigns, see `TowersHead.compute_loss`."""
        matched_idxs = self.match(targets, anchors, num_anchors_per_level, image_shapes)
        return self.head.compute_loss(targets, head_outputs, anchors, matched_idxs)

    def postprocess_detections(
        self, head_outputs: dict[str, list[Tensor]], anchors: list[list[Tensor]], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Return the best boxes of each image, in pixels of the transformed one, as `forward` does.

        Per level the best (prior, class) pairs above the score threshold are decoded and clipped to the image; then
        class-wise non-maximum suppression. What the head returns and each image's priors are given split into levels.
        """
        detections = []
        for index, (priors_of_levels, shape) in enumerate(zip(anchors, image_shapes, strict=True)):
            found = [
                self._best({name: levels[level][index] for name, levels in head_outputs.items()}, priors)
                for level, priors in enumerate(priors_of_levels)
            ]
            boxes, labels, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
            boxes = clip_boxes_to_image(boxes, shape)
            keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
            detections.append({"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]})
        return detections

    def _best(self, head_outputs: dict[str, Tensor], priors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, labels and scores of one level of one image, of what the head gives for its priors (N, 4)."""
        with full_precision(*head_outputs.values()) as values:
            outputs = dict(zip(head_outputs, values, strict=True))
            of_classes = self.head.scores(outputs)
            scores, classes = of_classes.flatten(), of_classes.shape[1]
            above = torch.where(scores > self.score_thresh)[0]
            # How many there are must not become a constant when this is traced for export: hence no topk of a number,
            # and no decoding of a selection.
            scores, order = scores[above].sort(descending=True)
            pairs = above[order[: self.topk_candidates]]
            boxes = self.head.decode(outputs["bbox_regression"], priors)[pairs // classes]
            return boxes, pairs % classes + 1, scores[: self.topk_candidates]

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the losses in training, the detections in evaluation.

        Args:
            images: (3, H, W) each, in [0, 1]; sizes may differ.
            targets: read in training only, see `segkd.detection.targets.Targets`.

        Returns:
            In training the scalars of `TowersHead.compute_loss`; in evaluation per image ``"boxes"``, (D, 4), xyxy in
            its pixels, ``"labels"``, (D,) int64 in 1..K, and ``"scores"``, (D,), the at most ``detections_per_img``
            best.

        Raises:
            SegkdError: in training, targets are absent or unsound, see `check_batch`.
        """
        if self.training:
            check_batch(images, targets, self.head.num_classes)
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        image_list, targets = self.transform(images, targets if self.training else None)
        features = list(self.backbone(image_list.tensors).values())
        anchors = self.anchor_generator(image_list, features)
        head_outputs = self.head(features)
        level_sizes = [x.shape[-2] * x.shape[-1] for x in features]
        if targets is not None:
            return self.compute_loss(targets, head_outputs, anchors, level_sizes, image_list.image_sizes)
        detections = self.postprocess_detections(
            {key: list(value.split(level_sizes, 1)) for key, value in head_outputs.items()},
            [list(priors.split(level_sizes)) for priors in anchors],
            image_list.image_sizes,
        )
        return self.transform.postprocess(detections, image_list.image_sizes, sizes)
