"""MGD: masked generative distillation (Yang et al., arXiv 2205.01529)."""

from collections.abc import Sequence

from torch import Tensor, nn

from segkd.losses._levels import compared_strides
from segkd.losses._masked import Masked


class MGD(Masked):
    """Masked generative distillation: the teacher's whole map is restored from a part of the student's.

        L = sum over channels and positions of (G(M * A F_s) - F_t)^2 / B

    A is a 1x1 convolution with bias, left out where the channels are as many; M drops each position of an image, all
    channels of it, with probability ``mask_ratio``; G is a 3x3 convolution, ReLU and another, with bias, of the
    teacher's channels. A and G are trained and belong to the loss; each pair of maps (each FPN level) has its own, of
    2 * 9 * C_t^2 weights: 75 million at the 2048 channels of a ResNet-101, which the optimiser holds too.

    Weights belong to the sum: 2e-5 for the last stage of a segmentation encoder (ratio 0.75) and for each FPN level of
    a one-stage detector (0.65), 5e-7 for a two-stage one's (0.45). The segmentation config that was released adds `CWD`
    on logits (T = 4, weight 3), as ``camvid_mgd`` does; its 69.85 to 73.63 mIoU (ResNet-101 to PSPNet-R18, Cityscapes)
    is of both. ``bccd_mgd`` has it on an FPN.

    Args:
        mask_ratio: the share of positions that are dropped, in [0, 1].
        strides: of the FPN levels that are compared; None: all that both have, of two-stage detectors without P6, as
            published.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient; or lists of such pairs.
        target is not read. Returns a scalar.

    Raises:
        SegkdError: batch or size differ, the channels are not those that it was prepared for, the ratio is none, or
            the detectors do not share the levels.

    Reference: Yang et al., "Masked Generative Distillation", arXiv 2205.01529.

    Config:
        distill:
          terms:
            mgd:
              {loss: mgd, student: encoder.layer4,
               teacher: encoder.layer4, mask_ratio: 0.75, weight: 2.0e-5}

    Example:
        >>> import torch
        >>> from segkd.losses import MGD
        >>> loss, student, teacher = MGD(), torch.randn(2, 5, 7, 9), torch.randn(2, 8, 7, 9)
        >>> loss.prepare(student, teacher)
        >>> loss(student, teacher).shape
        torch.Size([])
    """

    name = "mgd"
    title = "Masked generative distillation"
    paper = "arXiv 2205.01529"
    takes = "features, or the FPN of detectors"
    default_weight = 2e-5
    normalization = "sum over C_t * h * w / B, each pair of maps; 5e-7 for two-stage detectors"
    trains = "1x1 convolution, two of 3x3"
    published = (
        "Cityscapes, DeepLabV3-R18: 73.20 to 76.31 mIoU, with CWD; COCO, RetinaNet, X101 teaches R50: 37.4 to 41.0 AP"
    )

    strides: Sequence[int] | None = None

    def choose_levels(self, shared: Sequence[int]) -> list[int]:
        """Return which of the strides that both detectors have are compared."""
        return compared_strides(self.name, shared, self.strides)

    def compare(self, layers: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one pair, a scalar."""
        return (self.generated(layers, student) - teacher).square().sum() / len(student)
