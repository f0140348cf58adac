from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from segkd.detection.output import DenseOutput

SHRINK = 2
"""At the full size a run takes half a minute."""


def plain(loss: Any, student: DenseOutput, teacher: DenseOutput, target: Any) -> Tensor:
    again = {stride: x.clone().requires_grad_() for stride, x in teacher.maps.items()}
    teacher = replace(teacher, maps=again, predictions=teacher.head.run([*again.values()])[0])
    total = torch.zeros(())
    sides = [zip(output.maps.values(), slopes(output, target), strict=True) for output in (student, teacher)]
    for (s, of_s), (t, of_t) in zip(*sides, strict=True):
        total = total + (strength(s, of_s) - strength(t.detach(), of_t)).abs().mean()
    return total


def slopes(output: DenseOutput, target: Any) -> tuple[Tensor, ...]:
    value = torch.stack([*output.loss(target).values()]).sum() * len(target)
    return torch.autograd.grad(value, [*output.maps.values()], retain_graph=True)


def strength(features: Tensor, slope: Tensor) -> Tensor:
    found = (features * slope.mean((2, 3), keepdim=True)).sum(1).abs()
    found = found - found.amin((1, 2), keepdim=True)
    return found / (found.amax((1, 2), keepdim=True) + 1e-7)
