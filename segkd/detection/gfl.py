"""GFL (Li et al., arXiv 2006.04388): a one-stage detector that torchvision lacks, made to look like torchvision's."""

from segkd.detection.gfl_head import GFLHead
from segkd.detection.gfl_losses import distribution_focal_loss, integral, quality_focal_loss
from segkd.detection.one_stage import OneStage


class GFL(OneStage):
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

    head_type = GFLHead


__all__ = ["GFL", "GFLHead", "distribution_focal_loss", "integral", "quality_focal_loss"]
