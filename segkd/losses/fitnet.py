"""FitNet: a student's features, through a 1x1 convolution, copy the teacher's (Romero et al., arXiv 1412.6550)."""

import torch.nn.functional as F
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses._common import check_maps, full_precision
from segkd.losses.base import Loss


class FitNet(Loss):
    """Feature mimicking: the student's features, mapped to the teacher's channels, are to be the teacher's.

        L = mean over B * C_t * h * w of (W F_s - F_t)^2

    W is a 1x1 convolution without bias, also where the channels are as many. It is trained along and belongs to the
    loss: `prepare` makes it, which `segkd.Distiller` calls. CIRKD compares the maps before the classifiers, at weight
    10, beside pixel KD of weight 1. It is what other losses on features have to beat.

    Shape:
        student: (B, C_s, h, w) features; teacher: (B, C_t, h, w), taken without gradient. target is not read. Returns a
        scalar.

    Raises:
        SegkdError: batch or size differ, or the channels are not those that it was prepared for.

    Reference: Romero et al., "FitNets: Hints for Thin Deep Nets", arXiv 1412.6550.

    Config:
        distill:
          terms:
            fitnet: {loss: fitnet, student: decoder, teacher: decoder, weight: 10.0}

    Example:
        >>> import torch
        >>> from segkd.losses import FitNet
        >>> loss, student, teacher = FitNet(), torch.randn(2, 5, 7, 9), torch.randn(2, 8, 7, 9)
        >>> loss.prepare(student, teacher)
        >>> loss(student, teacher).shape, loss.connector.weight.shape
        (torch.Size([]), torch.Size([8, 5, 1, 1]))
    """

    name = "fitnet"
    title = "FitNet, feature mimicking"
    paper = "arXiv 1412.6550"
    takes = "features"
    default_weight = 10.0
    normalization = "mean over B * C_t * h * w"
    trains = "1x1 convolution"
    any_channels = True

    def check(self) -> None:
        """Have no layer yet: it depends on the channels."""
        self.connector: nn.Conv2d | None = None

    def prepare(self, student: Tensor, teacher: Tensor) -> None:
        """Make the convolution for maps of these channels; what has one keeps it."""
        if self.connector is None:
            self.connector = nn.Conv2d(student.shape[1], teacher.shape[1], 1, bias=False, device=student.device)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_maps(self.name, student, teacher)
        if self.connector is None:
            raise SegkdError("fitnet has no convolution yet: call prepare(student, teacher) first, as a Distiller does")
        channels = (self.connector.in_channels, self.connector.out_channels)
        if channels != (student.shape[1], teacher.shape[1]):
            raise SegkdError(
                f"fitnet was prepared for {channels[0]} and {channels[1]} channels, got student {tuple(student.shape)} "
                f"and teacher {tuple(teacher.shape)}"
            )
        with full_precision(student, teacher.detach()) as (s, t):
            return F.mse_loss(self.connector(s), t)
