"""What `MGD` and `AfDCD` share: a student's map is masked at random, and layers make one like the teacher's of it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses._generator import Draws
from segkd.losses._layers import LayerLoss


class Generation(nn.Module):
    """A masked map of the student to one like the teacher's: 1x1 if channels differ, mask, 3x3, ReLU, 3x3."""

    def __init__(self, student_channels: int, teacher_channels: int) -> None:
        super().__init__()
        differ = student_channels != teacher_channels
        self.align = nn.Conv2d(student_channels, teacher_channels, 1) if differ else nn.Identity()
        self.conv1 = nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(teacher_channels, teacher_channels, 3, padding=1)

    def forward(self, student: Tensor, keep: Tensor) -> Tensor:
        """Return (B, C_t, h, w) from the student's (B, C_s, h, w); where ``keep`` (B, 1, h, w) is 0 none is seen."""
        x: Tensor = self.conv2(F.relu(self.conv1(self.align(student) * keep)))
        return x


class Masked(Draws, LayerLoss):
    """Masks the student's map at random, see `Draws`, and has `Generation` restore the teacher's."""

    mask_ratio: float = 0.75

    def check(self) -> None:
        """Look at the ratio."""
        super().check()
        if not 0 <= self.mask_ratio <= 1:
            raise SegkdError(f"mask_ratio must be in [0, 1], got {self.mask_ratio}")

    def make(self, student_channels: int, teacher_channels: int) -> nn.Module:
        """Return a `Generation`."""
        return Generation(student_channels, teacher_channels)

    def generated(self, generation: nn.Module, student: Tensor) -> Tensor:
        """Return what is made of the student's map under a mask that is drawn: one value per image and position."""
        keep: Tensor = self.draw(student) <= 1 - self.mask_ratio
        x: Tensor = generation(student, keep.to(student.dtype))
        return x

    def draw(self, like: Tensor) -> Tensor:
        """Return uniform random numbers (B, 1, h, w) for a map (B, C, h, w)."""
        return torch.rand((len(like), 1, *like.shape[2:]), device=like.device, generator=self.generator)
