from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, softmax

SHRINK = 2
"""At the full size plain autograd keeps some 15 GB."""


def plain(loss: Any, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    s, t = (normalize(x, dim=1).flatten(2).transpose(1, 2) for x in (student, teacher))
    return relations(s, t, loss.temperature)


def relations(s: Tensor, t: Tensor, temperature: float) -> Tensor:
    """Pair of images by pair, vectors (B, n, C)."""
    total = torch.zeros((), device=s.device)
    for i in range(len(s)):
        for j in range(len(s)):
            log_s = log_softmax(s[i] @ s[j].T / temperature, 1)
            total = total + kl_div(log_s, softmax(t[i] @ t[j].T / temperature, 1), reduction="batchmean")
    return total / len(s) ** 2
