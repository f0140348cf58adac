"""What is measured of a model: the measures that a task has, and a model over a config's validation split."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segkd.training.schema import Config

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from segkd.network import Network
    from segkd.training.task import Task


@dataclass(frozen=True)
class Measure:
    """One of the values that a task's metrics compute.

    Attributes:
        key: under which they return it.
        label: how a person calls it.
        of_classes: whether it is a list with a value for each class.
        unit: ``%`` for a share of 1, which is shown in per cent; else what is written behind the number.
        higher_is_better: whether more of it is better.
    """

    key: str
    label: str
    of_classes: bool = False
    unit: str = "%"
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        """Return the label, with the unit where values are no shares."""
        return self.label if self.unit == "%" else f"{self.label}, {self.unit}" if self.unit else self.label

    @property
    def factor(self) -> float:
        """Return what a value is multiplied by where it is shown."""
        return 100.0 if self.unit == "%" else 1.0

    def shown(self, value: float | None, sign: str = "") -> str:
        """Return a value as a person reads it, a dash where nothing was measured; with ``+`` always with its sign."""
        if value is None or math.isnan(value):
            return "-"
        return format(self.factor * value, f"{sign}.{2 if self.unit == '%' else 3}f")


def measure(
    task: "Task",
    network: "Network",
    name: str = "student",
    device: "torch.device | None" = None,
    console: "Console | None" = None,
) -> dict[str, Any]:
    """Return what the task's metrics say of a model over the config's validation split.

    Args:
        task: of the config.
        network: the student or a teacher.
        name: ``"student"``, or a teacher's.
        device: where; what ``trainer.accelerator`` says unless given.
        console: where progress is shown if it is a terminal; None for nowhere.

    Raises:
        SegkdError: there is no such device.
    """
    import torch
    from pytorch_lightning.utilities import move_data_to_device

    from segkd.common.progress import shown

    device = device or device_of(task.config)
    network = network.to(device).eval()
    # The process that measures does so alone, also where others run beside it.
    metrics = task.metrics(sync_on_compute=False).to(device)
    with torch.no_grad():
        loader = task.val_loader(task.val_set())
        for batch in shown(loader, len(loader), name, console):
            task.count(metrics, network, move_data_to_device(seen_by(name, batch), device))
    measured: dict[str, Any] = metrics.compute()
    return measured


def seen_by(name: str, batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch, or an item, with the images that the model of this name sees: a teacher may have its own."""
    has_own = name != "student" and "image_teacher" in batch
    return {**batch, "image": batch["image_teacher"]} if has_own else batch


def device_of(config: Config) -> "torch.device":
    """Return the device that a config's ``trainer`` block names: the first, where it names several.

    Raises:
        SegkdError: there is no such device here.
    """
    import torch

    from segkd.common.devices import find_device

    kind, chosen = config.trainer.accelerator, config.trainer.devices
    if kind == "tpu":  # outside of Lightning's trainer nothing here runs on one
        return torch.device("cpu")
    device = find_device(kind, f"{config.name}: trainer.accelerator")
    if device.type == "cuda" and isinstance(chosen, list) and chosen:
        return find_device(f"cuda:{chosen[0]}", f"{config.name}: trainer.devices")
    return device
