"""PKD: Pearson-correlation feature distillation (Cao et al., arXiv 2207.02039)."""

from typing import Any

import torch
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import full_precision, resize
from segkd.losses._kl import parts
from segkd.losses.base import Loss

EPS = 1e-6
"""Added to each standard deviation."""


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


def standardize(features: Tensor, eps: float = EPS) -> Tensor:
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


class _Difference(torch.autograd.Function):
    """Half the mean squared difference of `standardize` of two maps, the slope taken along.

    With x centred, a = 1 / (std + eps) and d the difference, of which d / n is the loss's gradient, that of the map is
    a * d / n less its mean and less what the deviation takes: x * a^2 * sum(d * x) / (n * (m - 1) * std). A few
    channels at a time: plain autograd has five temporaries of the map's size, which cost more to fetch than to compute.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        """Return a scalar from two maps (B, C, h, w) of float32 or float64."""
        slope = torch.empty_like(student) if ctx.needs_input_grad[0] else None
        less_one = max(student.numel() // student.shape[1] - 1, 1)
        total = student.new_zeros(())
        for channels in parts(student.transpose(0, 1)):
            (s, std, scale_s), (t, _, scale_t) = (_centred(map_[:, channels]) for map_ in (student, teacher))
            d = (s * scale_s).sub_(t * scale_t)
            total += d.square().sum()
            if slope is not None:
                along = (d * s).sum((0, 2, 3), keepdim=True) * scale_s.square() / (std * less_one)
                of_map = (d * scale_s).sub_(s.mul_(torch.where(std > 0, along, 0.0)))
                slope[:, channels] = of_map.sub_(of_map.mean((0, 2, 3), keepdim=True)).mul_(1 / student.numel())
        ctx.save_for_backward(student, teacher, slope)
        return total * (0.5 / student.numel())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the student's map."""
        student, teacher, slope = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: it is to be differentiated itself
            (slope,) = torch.autograd.grad(_plain(student, teacher), student, create_graph=True)
        return slope * grad, None


def _centred(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return channels less their means, their deviations, and what to multiply by: 0 where they are constant."""
    x = x - x.mean((0, 2, 3), keepdim=True)
    std = deviation(x)
    return x, std, torch.where(std > 0, 1 / (std + EPS), 0.0)


def _plain(student: Tensor, teacher: Tensor) -> Tensor:
    """Return what `_Difference` does, in a form that autograd can follow."""
    return 0.5 * (standardize(student) - standardize(teacher)).square().mean()


class PKD(Loss):
    """Pearson-correlation distillation: features vary as the teacher's do, at any scale and offset.

        N F = (F - mean) / (std + 1e-6), of each channel over B * h * w = m values, std over m - 1
        L = half the mean of (N F_s - N F_t)^2 = (m - 1) / m * mean over the channels of 1 - r_c

    r_c is the channel's Pearson correlation. The gradient flows through the student's mean and deviation. A constant
    channel becomes 0 and passes no gradient, where 1 / 1e-6 would make its gradient a million times the others'; so
    does a map of one cell with batch 1, whose deviation is NaN. Terms on several levels add up.

    The paper weighs each FPN level by 6 (two-stage teacher) or 10 (one-stage teacher), beside CrossKD by 6 for GFL, 2
    for RetinaNet and FCOS, 1 for ATSS. Its released code is MMRazor's, of which these are the values; that pairs levels
    by position, so that with a two-stage teacher the student's map of stride 8 learns from the teacher's of stride 4.
    Here levels are paired by stride: a two-stage detector has strides 4 to 64, a one-stage one 8 to 128.

    Where sizes differ the student's map is resized to the teacher's (``size: student`` in a term: the other way). For
    segmentation name any module on both sides. On detectors use it where the teacher is of another kind than the
    student and CrossKD cannot be used, and only with a student that can follow: on BCCD a MobileNetV3-Small of half the
    width, from random weights, lost 5.6 AP to it at weight 10 and 3.0 at 1.

    Shape:
        student: (B, D, h, w), resized to the teacher's size (bilinear, align_corners=False); teacher: (B, D, h', w').
        target is not read. Returns a scalar, 0 when m = 1.

    Raises:
        SegkdError: channels or batch differ.

    Reference: Cao et al., "PKD: General Distillation Framework for Object Detectors via Pearson Correlation
    Coefficient", arXiv 2207.02039.

    Config:
        task: detection
        distill:
          terms:
            pkd: {loss: pkd, student: fpn, teacher: fpn, weight: 10.0}
        ---
        distill:
          terms:
            pkd:
              loss: pkd
              student: encoder.layer4
              teacher: encoder.layer4
              connector: conv1x1
              weight: 6.0

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
    published = "COCO, Mask R-CNN Swin teaches RetinaNet R50: 37.4 to 41.5 AP"

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        if student.dim() != 4 or teacher.dim() != 4 or student.shape[:2] != teacher.shape[:2]:
            raise SegkdError(
                f"pkd expects student and teacher (B, C, H, W) of the same B and C, got student {tuple(student.shape)} "
                f"and teacher {tuple(teacher.shape)}"
            )
        with full_precision(student, teacher.detach()) as (s, t):
            height, width = t.shape[2:]
            loss: Tensor = _Difference.apply(resize(s, (height, width)), t)
            return loss
