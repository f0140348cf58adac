"""Features of a teacher without classes, such as a foundation model's (Shang et al., arXiv 2407.20179)."""

from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.errors import SegkdError, nearest
from segkd.losses._common import resize, unit
from segkd.losses._layers import LayerLoss, Maps
from segkd.losses._rows import gathered

Cosine = Literal["position", "image"]


class RunningStandardization(nn.Module):
    """Standardises each channel by its mean and deviation over all batches so far, of all processes.

    Attributes:
        mean: (C,), a buffer.
        variance: (C,), a buffer.
        count: how many values of a channel there were, a buffer, int64.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("variance", torch.ones(channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h, w) of (B, C, h, w), which counts first, unless in eval mode."""
        if self.training:
            self.take(x)
        mean, deviation = (y[:, None, None] for y in (self.mean, self.variance.sqrt().clamp(min=1e-6)))
        return (x - mean) / deviation

    @torch.no_grad()
    def take(self, x: Tensor) -> None:
        """Let a batch (B, C, h, w) of each process count."""
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        found = torch.stack([torch.full_like(mean, x.numel() // x.shape[1]), mean, variance])
        for number, mean, variance in gathered(found[None]):
            total = self.count + number[0]
            share, change = number / total, mean - self.mean
            self.variance.copy_((1 - share) * (self.variance + share * change.square()) + share * variance)
            self.mean.add_(share * change)
            self.count.copy_(total)


class _Layers(nn.Module):
    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.connector = nn.Conv2d(student_channels, teacher_channels, 1)
        self.standardization = RunningStandardization(teacher_channels)


class Foundation(LayerLoss):
    """Features of a teacher that needs no classes, such as DINO or SAM's encoder, also on images without labels.

        L = cosine_weight * (1 - mean over positions of cos(W F_s, N F_t))
          + l1_weight * mean over all values of smooth L1(W F_s - N F_t)

    W is a 1x1 convolution with bias, trained along and part of the loss, that maps the student's features to the
    teacher's channels, at the teacher's size. N standardises each of the teacher's channels by its running mean and
    deviation over all batches so far, which are buffers, averaged over processes, and stand still in eval mode. Smooth
    L1 has beta 1. Several maps have layers each, and add up.

    Theia, from which the two weights are, takes the cosine of an image's whole map (``cosine="image"``) and statistics
    of the teacher on ImageNet, and distils several foundation models into one backbone; AM-RADIO does alike.

    Args:
        cosine: ``"position"``: of the vectors at each position; ``"image"``: of each image's flattened map.
        standardize: whether the teacher's channels are standardised.
        cosine_weight: of 1 - cosine, at least 0.
        l1_weight: of the smooth L1, at least 0.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h', w'), taken without gradient; or lists of them. target is
        not read. Returns a scalar.

    Raises:
        SegkdError: batches differ, an option is out of its range, or the channels are not those that it was prepared
            for.

    Reference: Shang et al., "Theia: Distilling Diverse Vision Foundation Models for Robot Learning", arXiv 2407.20179.

    Config:
        distill:
          terms:
            features: {loss: foundation, student: encoder.layer4, teacher: encoder.layer4, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import Foundation
        >>> loss, student, teacher = Foundation(), torch.randn(2, 5, 7, 9), torch.randn(2, 8, 4, 4)
        >>> loss.prepare(student, teacher)
        >>> loss(student, teacher).shape
        torch.Size([])
    """

    name = "foundation"
    title = "Features of a teacher without classes"
    paper = "arXiv 2407.20179"
    takes = "features"
    default_weight = 1.0
    normalization = "0.9 * mean over B * h * w of 1 - cosine + 0.1 * mean over all values of smooth L1"
    trains = "1x1 convolution"

    cosine: Cosine = "position"
    standardize: bool = True
    cosine_weight: float = 0.9
    l1_weight: float = 0.1

    def check(self) -> None:
        """Look at the options."""
        super().check()
        if self.cosine not in get_args(Cosine):
            raise SegkdError(f"foundation has no cosine {self.cosine!r}, {nearest(self.cosine, get_args(Cosine))}")
        for option in ("cosine_weight", "l1_weight"):
            if not (weight := getattr(self, option)) >= 0:
                raise SegkdError(f"{option} must be at least 0, got {weight}")

    def make(self, student_channels: int, teacher_channels: int) -> nn.Module:
        """Return a connector and the teacher's running statistics."""
        return _Layers(student_channels, teacher_channels)

    def compare(self, layers: Any, student: Tensor, teacher: Tensor) -> Tensor:
        """Return the loss of one pair, a scalar."""
        s, t = resize(layers.connector(student), (teacher.shape[2], teacher.shape[3])), teacher
        if self.standardize:
            t = layers.standardization(t)
        l1 = F.smooth_l1_loss(s, t)
        if self.cosine == "image":
            s, t = (x.flatten(1) for x in (s, t))
        cosine = (unit(s, 1) * unit(t, 1)).sum(1).mean()
        loss: Tensor = self.cosine_weight * (1 - cosine) + self.l1_weight * l1
        return loss

    def _paired(self, student: Maps, teacher: Maps, any_size: bool = True) -> list[tuple[Tensor, Tensor]]:
        return super()._paired(student, teacher, any_size=True)
