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
        """Return for each image the same (N, 4) float32, xyxy in pixels: level by level, row by row."""
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
    """Return the height and width that an image has in a batch of its own: those without padding, or up to a multiple.

    Anchors in this padding belong to the image, as in the published code: a detector meets them again where it is used.
    """
    height, width = (math.ceil(side / divisible) * divisible for side in shape)
    return height, width


def in_image(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (N,) bool, whether each anchor's centre lies in its image, which is of this `own_size`."""
    height, width = size
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    return (centres[:, 0] < width) & (centres[:, 1] < height)


def decode(regression: Tensor, priors: Tensor) -> Tensor:
    """Return boxes (..., 4), xyxy, not clipped, of logits (..., 68): centre -+ `integral` * stride. Float32 or more."""
    centres, strides = centres_and_strides(priors)
    distances = integral(regression) * strides
    return torch.cat([centres - distances[..., :2], centres + distances[..., 2:]], -1)


def encode(boxes: Tensor, priors: Tensor) -> Tensor:
    """Return the distances (..., 4), in strides, from the priors' centres to the left, top, right and bottom of boxes.

    Negative where the centre lies beyond the side.
    """
    centres, strides = centres_and_strides(priors)
    return torch.cat([centres - boxes[..., :2], boxes[..., 2:] - centres], -1) / strides
