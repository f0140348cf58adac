"""PKD: Pearson-correlation feature distillation (Cao et al., arXiv 2207.02039)."""

import torch
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import full_precision, resize
from segkd.losses.base import Loss


def deviation(centred: Tensor) -> Tensor:
    """Return the unbiased standard deviation (1, C, 1, 1) of each channel over B*h*w; 0 for a single value.

    A constant channel's passes no gradient: the square root's slope at 0 is infinite.

    Args:
        centred: (B, C, h, w), of mean 0 in each channel.
    """
    # torch.std over these dimensions takes about twenty times as long on the CPU.
    count = centred.numel() // centred.shape[1]
    variance = centred.square().sum((0, 2, 3), keepdim=True) / max(count - 1, 1)
    varies = variance > 0
    return torch.where(varies, variance, 1.0).sqrt() * varies


def standardize(features: Tensor, eps: float = 1e-6) -> Tensor:
    """Return (x - mean) / (std + eps) of each channel over B*h*w, with the unbiased standard deviation.

    A constant channel becomes zeros and passes no gradient: 1 / eps would make it a million times the others'. With one
    value a channel (1x1 map, batch 1) there is no deviation: the result is zeros.

    Args:
        features: (B, C, h, w).
        eps: added to the standard deviation.
    """
    with full_precision(features) as (x,):
        centred = x - x.mean((0, 2, 3), keepdim=True)
        std = deviation(centred)
        return centred * torch.where(std > 0, 1 / (std + eps), 0.0)


class PKD(Loss):
    """Pearson-correlation distillation: half the mean squared difference of features standardized per channel.

    With m = B*h*w values a channel this is (m - 1) / m * mean_c (1 - r_c), r_c the channel's Pearson correlation: the
    student must vary as the teacher does, at any scale and offset. The gradient flows through the student's mean and
    deviation. The paper weighs each FPN level by 6 (two-stage teacher) or 10 (one-stage teacher).

    Shape:
        student: (B, D, h, w), resized to the teacher's size (bilinear, align_corners=False); teacher: (B, D, h', w').
        target is not read. Returns a scalar, 0 when m = 1.

    Raises:
        SegkdError: channels or batch differ.

    Reference: Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation
    Coefficient", arXiv 2207.02039.

    Example:
        >>> import torch
        >>> from segkd.losses import PKD
        >>> x = torch.randn(2, 8, 7, 9)
        >>> bool(PKD()(x, 3 * x + 1) < 1e-6)
        True
    """

    name = "pkd"
    title = "Pearson-correlation distillation"
    paper = "arXiv 2207.02039"
    takes = "features, or the FPN of detectors"
    default_weight = 6.0
    normalization = "half the mean over B * D * h * w, each level; 10 for a one-stage teacher"

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        if student.dim() != 4 or teacher.dim() != 4 or student.shape[:2] != teacher.shape[:2]:
            raise SegkdError(
                f"pkd expects student and teacher (B, C, H, W) of the same B and C, got student {tuple(student.shape)} "
                f"and teacher {tuple(teacher.shape)}"
            )
        with full_precision(student, teacher) as (s, t):
            height, width = t.shape[2:]
            return 0.5 * (standardize(resize(s, (height, width))) - standardize(t)).square().mean()
