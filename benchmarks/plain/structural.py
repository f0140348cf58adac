from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad


def plain(loss: Any, student: Any, teacher: Any, target: Tensor) -> Tensor:
    if isinstance(student, list):
        return torch.stack([plain(loss, s, t, target) for s, t in zip(student, teacher, strict=True)]).sum()
    s, t = scaled(student), scaled(teacher)
    window = min(loss.window, 2 * min(s.shape[2:]) - 1)
    offset = torch.arange(window, dtype=s.dtype) - window // 2
    weight = (-offset.square() / (2 * loss.sigma**2)).exp()
    kernel = (weight / weight.sum()).outer(weight / weight.sum()).expand(s.shape[1], 1, -1, -1)

    def mean(x: Tensor) -> Tensor:
        return conv2d(pad(x, [window // 2] * 4, mode="reflect"), kernel, groups=len(kernel))

    mean_s, mean_t, c1, c2 = mean(s), mean(t), loss.k1**2, loss.k2**2
    var_s, var_t = mean(s * s) - mean_s.square(), mean(t * t) - mean_t.square()
    covariance = mean(s * t) - mean_s * mean_t
    similar = (2 * mean_s * mean_t + c1) * (2 * covariance + c2)
    similar = similar / ((mean_s.square() + mean_t.square() + c1) * (var_s + var_t + c2))
    return ((1 - similar) / 2).clamp(0, 1).mean()


def scaled(x: Tensor) -> Tensor:
    least, most = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return (x - least) / (most - least)
