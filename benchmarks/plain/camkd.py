from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softmax


def plain(loss: Any, student: Tensor, teacher: list[Tensor], target: Tensor) -> Tensor:
    labels = target[:, :: target.shape[1] // student.shape[2], :: target.shape[2] // student.shape[3]]
    valid = labels != loss.ignore_index
    own = labels.where(valid, 0)
    losses = torch.stack([cross_entropy(z, own, reduction="none") for z in teacher])
    weights = (1 - softmax(losses, 0)) / (len(teacher) - 1)
    p_s, total = softmax(student / loss.temperature, 1), torch.zeros_like(student[:, 0])
    for weight, z in zip(weights, teacher, strict=True):
        p_t = softmax(z / loss.temperature, 1)
        total = total + weight * (p_t * (p_t.log() - p_s.log())).sum(1)
    return (total * valid).sum() / valid.sum() * loss.temperature**2
