"""The weight of a term as a function of training progress in [0, 1]; adaptive loss weighting is the preset."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from segkd.errors import SegkdError

if TYPE_CHECKING:  # a config is checked before torch is loaded
    from torch import Tensor

Schedule = Callable[[float], float]
"""Maps progress in [0, 1] to the factor that multiplies a term's weight."""


@dataclass(frozen=True)
class Linear:
    """A straight line from ``start`` to ``end`` over progress ``begin`` to ``until``, constant outside.

    Args:
        start: the factor up to progress ``begin``, finite and at least 0.
        end: the factor from progress ``until`` on, finite and at least 0.
        begin: where the line starts, in [0, 1].
        until: where it ends, above ``begin``, at most 1.
        stages: hold the factor over this many equal stages of training instead of moving it every step. The number of
            epochs gives ALW's published epoch-wise schedule. None moves it continuously.

    Raises:
        SegkdError: a value is out of range.

    Config:
        distill:
          terms:
            kd: {loss: pixel_kd, weight: 1.0}
          schedule: {kd: {linear: {start: 1.0, end: 0.0, until: 0.5}}}

    Example:
        >>> Linear(1.0, 0.0)(0.25)
        0.75
        >>> Linear(0.0, 1.0, stages=4)(0.49)
        0.25
    """

    name: ClassVar[str] = "linear"
    title: ClassVar[str] = "Straight line between two factors"

    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0
    stages: int | None = None

    def __post_init__(self) -> None:
        if not all(0 <= factor < math.inf for factor in (self.start, self.end)):
            raise SegkdError(
                f"a linear schedule needs finite start and end of at least 0, got {self.start} and {self.end}"
            )
        if not 0 <= self.begin < self.until <= 1:
            raise SegkdError(f"a linear schedule needs 0 <= begin < until <= 1, got {self.begin} and {self.until}")
        if self.stages is not None and self.stages < 1:
            raise SegkdError(f"a linear schedule needs at least one stage, got {self.stages}")

    def __call__(self, progress: float) -> float:
        """Return the factor at ``progress``, which is clamped to [0, 1]."""
        progress = min(max(progress, 0.0), 1.0)
        if self.stages is not None:
            # The small addend keeps an epoch's own first step in that epoch: 0.29 * 100 is 28.999...
            progress = math.floor(progress * self.stages + 1e-9) / self.stages
        position = min(max((progress - self.begin) / (self.until - self.begin), 0.0), 1.0)
        return self.start + (self.end - self.start) * position


class ALW(dict[str, Schedule]):
    """Adaptive loss weighting: ``rise`` terms go linearly from 0 to 1, ``fall`` terms from 1 to 0.

        L = alpha * (L_task + L_ICSD) + (1 - alpha) * L_KD

    Pixel KD fades out as the labels fade in, so that the teacher's mistakes weigh less toward the end. alpha is the
    fraction of the optimiser steps that are done, always within [0, 1]. The released code has alpha only in a line that
    is commented out, as epoch / 120 whatever the number of epochs, so that it exceeds 1 after 120; it also divides the
    cross-entropy by the batch size once more. Terms keep their own weights, which alpha multiplies. This object maps
    each named term to its schedule, as `Distiller` takes it.

    Use it only where a KD term falls: in the first steps the labels weigh next to nothing, and that term is what the
    student learns from. Compare it with constant weights: on the drawn streets with all their labels `ICSD`, `PixelKD`
    and ALW together gained nothing.

    Args:
        rise: names of the terms that rise; ``"task"`` is the task loss.
        fall: names of the terms that fall.
        stages: number of epochs for the paper's epoch-wise alpha; None moves it every step.

    Raises:
        SegkdError: a name stands twice, or no name is given.

    Reference: Mansourian, Ahmadi, Kasaei, arXiv 2308.04243.

    Config:
        distill:
          terms:
            icsd: {loss: icsd, weight: 0.02}
            kd: {loss: pixel_kd, weight: 1.0}
          schedule: {alw: {rise: [task, icsd], fall: [kd]}}
    """

    name = "alw"
    title = "Adaptive loss weighting, of several terms"
    paper = "arXiv 2308.04243"
    of_terms = True
    """It is no function of progress, but a mapping of terms to such functions."""

    def __init__(
        self, rise: Sequence[str] = ("task", "icsd"), fall: Sequence[str] = ("kd",), stages: int | None = None
    ) -> None:
        if isinstance(rise, str) or isinstance(fall, str):
            raise SegkdError("alw takes lists of term names, got a single string")
        names = [*rise, *fall]
        if not names:
            raise SegkdError("alw needs at least one term that rises or falls")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SegkdError(f"alw names {twice[0]!r} twice: a term either rises or falls")
        super().__init__({name: Linear(0.0, 1.0, stages=stages) for name in rise})
        self.update({name: Linear(1.0, 0.0, stages=stages) for name in fall})


alw = ALW
"""The name it is called by: ``schedule=alw(rise=("task", "icsd"), fall=("kd",))``."""


def summed(
    values: "Mapping[str, Tensor]", weights: Mapping[str, float], schedule: Mapping[str, Schedule], progress: float
) -> "tuple[Tensor, dict[str, float]]":
    """Return the sum of all terms times their weights at this progress, and these weights."""
    import torch

    now = {name: weight * (schedule[name](progress) if name in schedule else 1.0) for name, weight in weights.items()}
    return torch.stack([now[name] * value for name, value in values.items()]).sum(), now
