"""Square priors of fixed stride, and boxes as distances from their centres."""

import math

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from segkd.detection.gfl_losses import integral
from segkd.errors import SegkdError

STRIDES = (8, 16, 32, 64, 128)
SIDE = 8  # side of a prior, in strides


class SquarePriors(AnchorGenerator):
    """One square per cell of each FPN level: centre (column * stride, row * stride), side 8 * stride.

    torchvision derives strides from sizes and gets 53 or 80 on odd ones: here they are 8, 16, 32, 64 and 128 whatever
    the size.
    """

    def __init__(self) -> None:
        super().__init__(tuple((SIDE * stride,) for stride in STRIDES), ((1.0,),) * len(STRIDES))

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
        self.set_cell_anchors(torch.float32, image_list.tensors.device)
        levels = self.grid_anchors(sizes, [(stride, stride) for stride in STRIDES])
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


def centerness(distances: Tensor) -> Tensor:
    """Return (...), how central a point lies in its box, from 1 at the centre to 0 at a side (arXiv 1904.01355).

    ``distances`` (..., 4) are those to the left, top, right and bottom side, above 0 in any unit.
    """
    near, far = (pick(distances[..., :2], distances[..., 2:]) for pick in (torch.minimum, torch.maximum))
    return (near / far).prod(-1).sqrt()
