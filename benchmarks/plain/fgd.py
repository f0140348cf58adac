from typing import Any

import torch
from torch import Tensor

from segkd.detection.methods.fgd import background_mask
from segkd.detection.output import DetectorOutput


def plain(loss: Any, student: DetectorOutput, teacher: DetectorOutput, target: Any) -> Tensor:
    total = torch.zeros(())
    for stride, s in student.maps.items():
        t, layers, batch = teacher.maps[stride], loss.levels[str(stride)], len(s)
        foreground = loss.foreground(student, target, stride)
        background = torch.stack([background_mask(mask) for mask in foreground])
        (where_s, what_s), (where_t, what_t) = attention(s, loss.temperature), attention(t, loss.temperature)
        for weight, mask in ((loss.alpha, foreground), (loss.beta, background)):
            error = mask[:, None] * where_t[:, None] * what_t[:, :, None, None] * (s - t).square()
            total = total + weight * error.sum() / batch
        apart = (where_s - where_t).abs().sum() + (what_s - what_t).abs().sum()
        relation = (s + layers.context_s(s)) - (t + layers.context_t(t))
        total = total + loss.gamma * apart / batch + loss.lam * relation.square().sum() / batch
    return total


def attention(x: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    positions, channels = x.shape[2:].numel(), x.shape[1]
    where = (x.abs().mean(1) / temperature).flatten(1).softmax(1).view(len(x), *x.shape[2:]) * positions
    return where, (x.abs().mean((2, 3)) / temperature).softmax(1) * channels
