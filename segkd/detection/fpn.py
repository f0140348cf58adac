"""A detector's FPN maps and their strides."""

import math
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from segkd.trial import undisturbed


def fpn_maps(detector: Any, images: ImageList) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
    """Return the FPN maps (B, D, h, w) by the backbone's names and by stride, from fine to coarse.

    The strides are what the backbone says in ``strides``, as `FPNBackbone` does, or what the maps' sizes say.
    """
    maps = detector.backbone(images.tensors)
    named = {"0": maps} if isinstance(maps, Tensor) else maps
    known = getattr(detector.backbone, "strides", None)
    if known is not None:
        return named, dict(zip(known, named.values(), strict=True))
    side, stride, by_stride = max(images.tensors.shape[-2:]), 1, {}
    for x in named.values():
        # Sizes are rounded up, so that on a small image several maps are of one cell: each has half the cells at least.
        stride = max(2 * stride, 2 ** round(math.log2(side / max(x.shape[-2:]))))
        by_stride[stride] = x
    return named, by_stride


@torch.no_grad()
def fpn_strides(detector: Any) -> list[int]:
    """Return the strides of a detector's FPN maps; a backbone that does not say them runs once, on zeros."""
    known = getattr(detector.backbone, "strides", None)
    if known is not None:
        return list(known)
    with undisturbed(detector):
        zeros = torch.zeros(1, 3, 128, 128).to(next(detector.parameters()))
        return list(fpn_maps(detector, ImageList(zeros, [(128, 128)]))[1])
