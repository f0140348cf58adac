from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy


def plain(loss: Any, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    tokens = loss.vectors
    masks = sigmoid_of(tokens.detach(), teacher)
    masked = masks[:, :, None] * (student - teacher)[:, None]
    value = 0.5 * (masked.square().sum((3, 4)) / (masks.sum((2, 3)) + 1e-5)[..., None]).mean()
    # What trains the tokens counts in the gradient alone.
    masks = sigmoid_of(tokens, teacher)
    seen = (masks[:, :, None] * teacher[:, None]).sum(1)
    labels = target[:, :: target.shape[1] // student.shape[2], :: target.shape[2] // student.shape[3]]
    learning, dice = cross_entropy(seen, labels, ignore_index=loss.ignore_index), []
    flat = masks.flatten(2)
    for i in range(len(tokens)):
        for j in range(len(tokens)):
            if i != j:
                a, b = flat[:, i], flat[:, j]
                dice.append(2 * (a * b).sum(1) / (a.square().sum(1) + b.square().sum(1)))
    learning = learning + torch.stack(dice).mean()
    return value + learning - learning.detach()


def sigmoid_of(tokens: Tensor, logits: Tensor) -> Tensor:
    return torch.einsum("kc,bchw->bkhw", tokens, logits).sigmoid()
