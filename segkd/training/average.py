"""The moving average of the student's weights, which is measured and saved in their place."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from segkd.training.module import DistillModule


class StudentAverage(pl.Callback):
    """Keeps an exponential moving average (EMA) of the student's weights, which is measured and saved in their place.

    Training goes on with the weights themselves, and ``last.ckpt`` has both. Statistics of batch norms are averaged
    too. Step t enters with a weight of at least 9 / (10 + t), so that the first weights are soon forgotten.

    Args:
        decay: how much of the average is kept at a step, above 0 and below 1.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self._averages: dict[str, Tensor] = {}
        self._weights: list[Tensor] = []  # the student's own, while the averages are in their place

    def state_dict(self) -> dict[str, Any]:
        """Return the averages, by name in the student."""
        return {"student": dict(self._averages)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the averages."""
        self._averages = dict(state_dict["student"])

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Begin with the current weights, unless averages were restored."""
        self._ready(module)

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update the averages after an optimiser step."""
        if not module.ends_step(batch_idx):
            return
        now, averages = _tensors(module), self._ready(module)
        # The same tensor may have several names.
        pairs = {id(tensor): (averages[name], tensor.detach()) for name, tensor in now.items()}.values()
        decay = min(self.decay, (1 + trainer.global_step) / (10 + trainer.global_step))
        get_ema_multi_avg_fn(decay)([average for average, _ in pairs], [tensor for _, tensor in pairs], None)

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Put the averages in the weights' place."""
        averages = self._ready(module)
        tensors = _tensors(module)
        self._weights = [tensor.data for tensor in tensors.values()]
        for name, tensor in tensors.items():
            tensor.data = averages[name]

    def put_back(self, module: pl.LightningModule) -> None:
        """Put the weights back in their place."""
        for tensor, weights in zip(_tensors(module).values(), self._weights, strict=True):
            tensor.data = weights
        self._weights = []

    def _ready(self, module: pl.LightningModule) -> dict[str, Tensor]:
        """Return the averages, on the weights' device and in their memory layout; one that is missing is a copy."""
        done: dict[int, Tensor] = {}
        for name, tensor in _tensors(module).items():
            average = self._averages.get(name, tensor.detach())
            if id(tensor) not in done:
                is_alike = average.device == tensor.device and average.stride() == tensor.stride()
                is_own = average.data_ptr() != tensor.data_ptr()
                done[id(tensor)] = average if is_alike and is_own else torch.empty_like(tensor).copy_(average).detach()
            self._averages[name] = done[id(tensor)]
        return self._averages


def averaged(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the averages in a checkpoint, by the names in its ``state_dict``; empty where it has none."""
    found = content["callbacks"].get(StudentAverage.__qualname__, {}).get("student", {})
    return {f"distiller.student.{name}": average for name, average in found.items()}


def _tensors(module: Any) -> dict[str, Tensor]:
    """Return the student's tensors that are averaged, by name: floating-point parameters and buffers."""
    assert isinstance(module, DistillModule)
    student: Any = module.distiller.student
    state: dict[str, Tensor] = student.module.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
