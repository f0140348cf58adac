"""GFL (Li et al., arXiv 2006.04388): a one-stage detector that torchvision lacks, made to look like torchvision's."""

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import batched_nms, clip_boxes_to_image

from segkd.detection.atss import atss_assign
from segkd.detection.gfl_head import PADDING, GFLHead
from segkd.detection.gfl_losses import distribution_focal_loss, integral, quality_focal_loss
from segkd.detection.priors import SquarePriors, decode, in_image, own_size
from segkd.detection.targets import check_batch
from segkd.errors import SegkdError
from segkd.losses._common import full_precision


class GFL(nn.Module):
    """Generalised focal loss detector: one prior per cell, matched by ATSS, scored by expected IoU.

    Like torchvision's FCOS it takes a list of images and, in training, targets; its parts (``transform``, ``backbone``,
    ``head``, ``anchor_generator``, ``compute_loss``, ``postprocess_detections``) can be called one by one alike.

    Args:
        backbone: maps (B, 3, H, W) to an ordered dict of FPN maps P3..P7 (strides 8..128), each of
            ``backbone.out_channels`` channels, a multiple of 32 from 64 on.
        num_classes: K, without background.
        settings: of torchvision's FCOS, under its names, such as ``min_size`` and ``score_thresh``.
        per_process: whether each process of a distributed run divides its losses by its own figures.

    Raises:
        SegkdError: the backbone has no ``out_channels``, or not such a multiple, or there is no class.

    Example:
        >>> import torch
        >>> from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
        >>> from torchvision.ops.feature_pyramid_network import LastLevelP6P7
        >>> fpn = resnet_fpn_backbone(
        ...     backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
        ... )
        >>> model = GFL(fpn, num_classes=3, min_size=64)
        >>> target = {"boxes": torch.tensor([[4.0, 8.0, 40.0, 60.0]]), "labels": torch.tensor([3])}
        >>> sorted(model([torch.rand(3, 64, 80)], [target]))
        ['bbox_regression', 'classification', 'distribution']
        >>> sorted(model.eval()([torch.rand(3, 64, 80)])[0])
        ['boxes', 'labels', 'scores']
    """

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
            raise SegkdError("GFL's backbone needs an attribute out_channels, the channels of each of its FPN maps")
        self.transform = GeneralizedRCNNTransform(
            min_size, max_size, image_mean or [0.485, 0.456, 0.406], image_std or [0.229, 0.224, 0.225]
        )
        self.backbone = backbone
        self.head = GFLHead(channels, num_classes, per_process=per_process)
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
        """Return the head's losses on what `match` assigns, see `GFLHead.compute_loss`."""
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
                self._best(logits[index], regression[index], priors)
                for logits, regression, priors in zip(
                    head_outputs["cls_logits"], head_outputs["bbox_regression"], priors_of_levels, strict=True
                )
            ]
            boxes, labels, scores = (torch.cat(parts) for parts in zip(*found, strict=True))
            boxes = clip_boxes_to_image(boxes, shape)
            keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
            detections.append({"boxes": boxes[keep], "labels": labels[keep], "scores": scores[keep]})
        return detections

    def _best(self, logits: Tensor, regression: Tensor, priors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, labels and scores of one level of one image, from (N, K), (N, 68) and (N, 4)."""
        with full_precision(logits, regression) as (logits, regression):
            scores = logits.sigmoid().flatten()
            above = torch.where(scores > self.score_thresh)[0]
            # How many there are must not become a constant when this is traced for export: hence no topk of a number,
            # and no decoding of a selection.
            scores, order = scores[above].sort(descending=True)
            pairs, classes = above[order[: self.topk_candidates]], logits.shape[1]
            boxes = decode(regression, priors)[pairs // classes]
            return boxes, pairs % classes + 1, scores[: self.topk_candidates]

    def forward(
        self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return the losses in training, the detections in evaluation.

        Args:
            images: (3, H, W) each, in [0, 1]; sizes may differ.
            targets: read in training only, see `segkd.detection.targets.Targets`.

        Returns:
            In training the scalars of `GFLHead.compute_loss`; in evaluation per image ``"boxes"``, (D, 4), xyxy in its
            pixels, ``"labels"``, (D,) int64 in 1..K, and ``"scores"``, (D,), the at most ``detections_per_img`` best.

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


__all__ = ["GFL", "GFLHead", "distribution_focal_loss", "integral", "quality_focal_loss"]
