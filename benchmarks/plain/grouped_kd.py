from typing import Any

import torch
from plain.gdkd import grouped
from torch import Tensor
from torch.nn.functional import softmax


def plain(loss: Any, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    labels = target[:, :: target.shape[1] // student.shape[2], :: target.shape[2] // student.shape[3]]
    valid = labels != loss.ignore_index
    own = labels.where(valid, 0)[:, None]
    z = student.detach()
    mean = (softmax(z, 1) * valid[:, None]).sum((0, 2, 3)) / valid.sum()
    size = 1 + int((mean.sort(descending=True).values.cumsum(0) < loss.rate).sum())
    largest = z.scatter(1, own, torch.inf).topk(size, 1).indices
    group = torch.zeros_like(z).scatter(1, largest, 1.0)
    total = grouped(student, teacher, group, loss.temperature, loss.alpha, loss.beta, loss.secondary)
    return (total * valid).sum() / valid.sum()
