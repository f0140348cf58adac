from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softmax


def plain(loss: Any, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    labels = target[:, :: target.shape[1] // student.shape[2], :: target.shape[2] // student.shape[3]]
    valid = labels != loss.ignore_index
    own = labels.where(valid, 0)[:, None]
    p_s, p_t = softmax(student / loss.temperature, 1), softmax(teacher / loss.temperature, 1)
    others = [p.scatter(1, own, 0) for p in (p_s, p_t)]
    masses = zip((p_s, p_t), others, strict=True)
    b_s, b_t = (torch.cat([p.gather(1, own), rest.sum(1, keepdim=True)], 1) for p, rest in masses)
    tckd = (b_t * (b_t.log() - b_s.log())).sum(1)
    q_s, q_t = (o / o.sum(1, keepdim=True) for o in others)
    nckd = (q_t * ((q_t + 1e-30).log() - (q_s + 1e-30).log())).sum(1)
    mean = ((loss.alpha * tckd + loss.beta * nckd) * valid).sum() / valid.sum()
    return mean * loss.temperature**2
