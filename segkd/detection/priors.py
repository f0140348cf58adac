"""Square priors of fixed stride, and boxes as distances from their centres."""

import math

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from segkd.detection.gfl_losses import integral
from segkd.errors import SegkdError

STRIDES = (8, 16, 32, 64, 128)
SIDE = 8
"""Side of a prior, in strides."""


class SquarePriors(nn.Module):
    """One square per cell of each FPN level: centre (column * stride, row * stride), side 8 * stride.

    Called as torchvision's ``AnchorGenerator`` is, which derives strides from sizes and gets 53 or 80 on odd ones: here
    they are 8, 16, 32, 64 and 128 whatever the size.
    """

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """Return the priors of each image.

        Args:
            image_list: the batch, as the detector's ``transform`` returns it.
            feature_maps: P3..P7, (B, D, h, w) each.

        Returns:
            For each image the same (N, 4) float32, xyxy in pixels: level by level, row by row.

        Raises:
            SegkdError: there are not five levels, or their sizes are not those of strides 8..128.
        """
        height, width = image_list.tensors.shape[-2:]
        sizes = [(int(x.shape[-2]), int(x.shape[-1])) for x in feature_maps]
        if len(sizes) != len(STRIDES) or any(
            abs(h - height / stride) >= 1 or abs(w - width / stride) >= 1
            for (h, w), stride in zip(sizes, STRIDES, strict=True)
        ):
            raise SegkdError(
                f"the backbone must give FPN maps of strides {', '.join(map(str, STRIDES))}; for images of "
                f"{height}x{width} it gave {', '.join(f'{h}x{w}' for h, w in sizes)}"
            )
        device = image_list.tensors.device
        levels = []
        for (h, w), stride in zip(sizes, STRIDES, strict=True):
            y, x = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
            centres = torch.stack([x, y], -1).flatten(0, 1).float() * stride
            half = SIDE * stride / 2
            levels.append(torch.cat([centres - half, centres + half], 1))
        return [torch.cat(levels)] * image_list.tensors.shape[0]


def centres_and_strides(priors: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centres (..., 2) and strides (..., 1) of priors (..., 4), in pixels."""
    return (priors[..., :2] + priors[..., 2:]) / 2, (priors[..., 2:3] - priors[..., :1]) / SIDE


def own_size(shape: tuple[int, int], divisible: int) -> tuple[int, int]:
    """Return the height and width that an image has in a batch of its own: without padding, or up to a multiple.

    Anchors in this padding belong to the image, as in the published code: a detector meets them again where it is used.

    Args:
        shape: height and width of the transformed image without padding.
        divisible: what the sides of a batch are multiples of.
    """
    height, width = (math.ceil(side / divisible) * divisible for side in shape)
    return height, width


def in_image(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (N,) bool, whether each anchor's centre lies in its image rather than in what a batch pads it with.

    Args:
        anchors: (N, 4), xyxy in pixels.
        size: the image's `own_size`.
    """
    height, width = size
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    return (centres[:, 0] < width) & (centres[:, 1] < height)


def decode(regression: Tensor, priors: Tensor) -> Tensor:
    """Return the boxes that a box head predicts: centre -+ `integral` * stride.

    Args:
        regression: (..., 68) logits, 17 bins for each of left, top, right, bottom.
        priors: (..., 4), xyxy in pixels.

    Returns:
        (..., 4), xyxy in pixels, not clipped to the image, in float32 (float64 for float64 logits).
    """
    centres, strides = centres_and_strides(priors)
    distances = integral(regression) * strides
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1)


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    """Return the distances from the priors' centres to the boxes' left, top, right and bottom sides.

    Args:
        boxes: (..., 4), xyxy in pixels.
        priors: (..., 4), xyxy in pixels.

    Returns:
        (..., 4) in strides; negative where the centre lies beyond the side.
    """
    centres, strides = centres_and_strides(priors)
    return torch.cat([centres - boxes[..., :2], boxes[..., 2:] - centres], -1) / strides
