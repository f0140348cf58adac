"""CIRKD's projector: student features to the teacher's channels, trained with the student."""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as over_all
from torch import Tensor, nn

from segkd.errors import SegkdError


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation by this batch's statistics, over all processes of a distributed run.

    No running statistics are kept: what only losses read is never run on single images. A channel of one value (a 1x1
    map, batch 1) becomes its bias, where torch's raises an error.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h, w) of (B, C, h, w)."""
        # Where no gradient is wanted one process may look at something alone: it waits for no other.
        is_shared = dist.is_available() and dist.is_initialized() and torch.is_grad_enabled()
        values = x.numel() // x.shape[1]
        if not is_shared and values > 1:
            return super().forward(x)
        ones = x.new_full((x.shape[1],), values)
        count, total = _summed(torch.stack([ones, x.sum((0, 2, 3))]), is_shared)
        centred = x - (total / count)[:, None, None]
        variance = _summed(centred.square().sum((0, 2, 3)), is_shared) / count
        scale = self.weight * (variance + self.eps).rsqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


class Projector(nn.Sequential):
    """A 1x1 convolution to the teacher's channels, batch normalisation, ReLU, and a second 1x1; neither has a bias.

    Args:
        student_channels: of the student's features.
        teacher_channels: of the teacher's.
        device: where its parameters are.
    """

    def __init__(self, student_channels: int, teacher_channels: int, device: torch.device | None = None) -> None:
        super().__init__(
            nn.Conv2d(student_channels, teacher_channels, 1, bias=False),
            BatchNorm(teacher_channels),
            nn.ReLU(),
            nn.Conv2d(teacher_channels, teacher_channels, 1, bias=False),
        )
        self.to(device)
        self.channels = (student_channels, teacher_channels)


def _summed(x: Tensor, is_shared: bool) -> Tensor:
    return over_all.all_reduce(x) if is_shared else x


def ready(name: str, projector: Projector | None, student: Tensor, teacher: Tensor) -> Projector:
    """Return a projector; raise unless there is one, of these maps' channels."""
    if projector is None:
        raise SegkdError(f"{name} has no projector yet: call prepare(student, teacher) first, as a Distiller does")
    if projector.channels != (student.shape[1], teacher.shape[1]):
        raise SegkdError(
            f"{name} was prepared for {projector.channels[0]} and {projector.channels[1]} channels, got student "
            f"{tuple(student.shape)} and teacher {tuple(teacher.shape)}"
        )
    return projector
