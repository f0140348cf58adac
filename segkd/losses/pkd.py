"""PKD: Pearson-correlation feature distillation (Cao et al., arXiv 2207.02039)."""

from typing import Literal

import torch
from torch import Tensor, nn

from segkd.errors import SegkdError, nearest
from segkd.losses._common import check_pair, full_precision, resize


def standardize(features: Tensor, eps: float = 1e-6) -> Tensor:
    """Return (x - mean) / (std + eps) of each channel over B*h*w, with the unbiased standard deviation.

    A constant channel becomes zeros and passes no gradient through its deviation (the square root's slope at 0 is
    infinite). With one value a channel (1x1 map, batch 1) there is no deviation: the result is zeros.

    Args:
        features: (B, C, h, w).
        eps: added to the standard deviation.
    """
    with full_precision(features) as (x,):
        count = x.numel() // x.shape[1]
        centred = x - x.mean((0, 2, 3), keepdim=True)
        variance = centred.square().sum((0, 2, 3), keepdim=True) / max(count - 1, 1)
        varies = variance > 0
        std = torch.where(varies, variance, 1.0).sqrt() * varies
        return centred / (std + eps)


def pkd(
    student: Tensor, teacher: Tensor, target: Tensor | None = None, size: Literal["teacher", "student"] = "teacher"
) -> Tensor:
    """Return half the mean squared difference of the standardized features, see `PKD`."""
    if student.dim() == teacher.dim() == 4:
        if size == "teacher":
            student = resize(student, (teacher.shape[2], teacher.shape[3]))
        else:
            teacher = resize(teacher, (student.shape[2], student.shape[3]))
    check_pair("pkd", student, teacher)
    return 0.5 * (standardize(student) - standardize(teacher)).square().mean()


class PKD(nn.Module):
    """Pearson-correlation distillation: half the mean squared difference of features standardized per channel.

    With m = B*h*w values a channel this is (m - 1) / m * mean_c (1 - r_c), r_c the channel's Pearson correlation: the
    student must vary as the teacher does, at any scale and offset. The gradient flows through the student's mean and
    deviation. The paper weighs each FPN level by 6 (two-stage teacher) or 10 (one-stage teacher).

    Args:
        size: whose size both are resized to, bilinearly with align_corners=False, when they differ: ``"teacher"`` or
            ``"student"``.

    Shape:
        student: (B, D, h, w); teacher: (B, D, h', w'); target is not read. Returns a scalar, 0 when m = 1.

    Raises:
        SegkdError: channels or batch differ.

    Reference: Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation
    Coefficient", arXiv 2207.02039.

    Example:
        >>> x = torch.randn(2, 8, 7, 9)
        >>> bool(PKD()(x, 3 * x + 1) < 1e-6)
        True
    """

    def __init__(self, size: Literal["teacher", "student"] = "teacher") -> None:
        super().__init__()
        if size not in ("teacher", "student"):
            raise SegkdError(f"pkd cannot resize to {size!r}, {nearest(size, ('teacher', 'student'))}")
        self.size = size

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        return pkd(student, teacher, target, self.size)

    def extra_repr(self) -> str:
        """Show the settings in ``print``."""
        return f"size={self.size!r}"
