"""The optimiser with its two learning rates, and the learning-rate schedule."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from segkd.training.schema import Optimizer


def parameter_groups(
    modules: Iterable[nn.Module], settings: Optimizer, encoders: Sequence[str] = ("encoder",)
) -> list[dict[str, Any]]:
    """Return the groups ``encoder`` (parameters below these paths) and ``head`` (all others); no empty ones.

    Where the settings treat biases apart, ``encoder_bias`` and ``head_bias`` hold those of convolutions and linear
    layers, with their own rate and weight decay.
    """
    decay = settings.weight_decay if settings.bias_weight_decay is None else settings.bias_weight_decay
    apart = settings.bias_lr_factor != 1 or decay != settings.weight_decay
    rates = {"encoder": settings.encoder_lr or settings.lr, "head": settings.lr}
    of_biases = {f"{name}_bias": rate * settings.bias_lr_factor for name, rate in rates.items()}
    groups: dict[str, dict[str, Any]] = {name: {"lr": rate} for name, rate in rates.items()}
    groups |= {name: {"lr": rate, "weight_decay": decay} for name, rate in of_biases.items()}
    found: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    for module in modules:
        for path, parameter in module.named_parameters():
            if parameter.requires_grad:
                name = "encoder" if any(f".{part}." in f".{path}" for part in encoders) else "head"
                if apart and _is_bias(module, path):
                    name = f"{name}_bias"
                found[name].append(parameter)
    return [{"name": name, "params": found[name], **group} for name, group in groups.items() if found[name]]


def _is_bias(module: nn.Module, path: str) -> bool:
    """Return whether a parameter is the bias of a layer that is no norm: the weight of a norm is a vector too."""
    owner, _, name = path.rpartition(".")
    weight = getattr(module.get_submodule(owner), "weight", None)
    return name == "bias" and isinstance(weight, torch.Tensor) and weight.dim() > 1


def make_optimizer(groups: list[dict[str, Any]], settings: Optimizer) -> torch.optim.Optimizer:
    """Return SGD (with momentum) or AdamW."""
    if settings.name == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay)


def make_scheduler(optimizer: torch.optim.Optimizer, settings: Optimizer, max_steps: int) -> lr_scheduler.LRScheduler:
    """Return one-cycle, or poly, cosine or multistep after a linear warm-up, over ``max_steps`` optimiser steps."""
    if settings.schedule == "onecycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return lr_scheduler.OneCycleLR(optimizer, max_lr=rates, total_steps=max_steps + 1)
    warmup = min(settings.warmup_steps, max_steps - 1)
    rest = max_steps - warmup
    main: lr_scheduler.LRScheduler
    if settings.schedule == "poly":
        main = lr_scheduler.PolynomialLR(optimizer, total_iters=rest, power=settings.power)
    elif settings.schedule == "cosine":
        main = lr_scheduler.CosineAnnealingLR(optimizer, T_max=rest)
    else:
        # Milestones count from the first step on, warm-up included, as published schedules do.
        after = [step - warmup for step in settings.milestones]
        main = lr_scheduler.MultiStepLR(optimizer, after, gamma=0.1)
    if warmup == 0:
        return main
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, main], milestones=[warmup])
