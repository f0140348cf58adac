from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, max_pool2d, unfold


def plain(loss: Any, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    x = loss.generated(loss.layers[0], student)
    reconstruction = (x - teacher).square().sum() / len(x)
    s, t = (cells(max_pool2d(each, loss.pool), loss.groups, loss.patch) for each in (x, teacher))
    logits = -torch.cdist(s, t, p=1) / loss.temperature
    group = torch.arange(s.shape[1]) % loss.groups
    is_other_place = (group[:, None] == group) & ~torch.eye(len(group), dtype=torch.bool)
    logits = logits.masked_fill(is_other_place, -torch.inf)
    same = torch.arange(len(group)).expand(len(s), -1)
    contrast = cross_entropy(logits.transpose(1, 2), same, reduction="none").sum(1).mean() / loss.patch**2
    return loss.reconstruction_weight * reconstruction + loss.contrast_weight * contrast


def cells(x: Tensor, groups: int, patch: int) -> Tensor:
    """Return (patches, positions * groups, channels of a group)."""
    channels = x.shape[1]
    patches = unfold(x, patch, stride=patch).transpose(1, 2).flatten(0, 1)
    return patches.unflatten(1, (groups, channels // groups, patch**2)).permute(0, 3, 1, 2).flatten(1, 2)
