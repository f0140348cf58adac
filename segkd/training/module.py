"""The Lightning module: one distilled step, one validation step, what is logged."""

import bisect
import itertools
import warnings
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from segkd import registry
from segkd.distiller import Distiller, DistillOutput
from segkd.errors import SegkdError
from segkd.losses._rows import over_processes
from segkd.network import Network
from segkd.training.optim import make_optimizer, make_scheduler, parameter_groups
from segkd.training.stages import ends_of
from segkd.training.task import Task

_STUDENT = "distiller.student."

_NEVER = 2**62  # a step that no run comes to


class DistillModule(pl.LightningModule):
    """Trains a distiller by steps, in stages one after the other; the unit of every schedule is the optimiser step."""

    distiller: Distiller

    def __init__(
        self, task: Task, distiller: Distiller, *later: Distiller, teachers: Mapping[str, nn.Module] | None = None
    ) -> None:
        super().__init__()
        self.task, self.config, self.distiller = task, task.config, distiller
        self.teachers = dict(teachers or {})  # a dict, no submodules: they are in neither parameters() nor state_dict()
        self.distillers, self.stage = [distiller, *later], 0
        self.borders = [0, *ends_of(task.config)]
        # What each stage trains beside the student, whichever distiller is active.
        self._beside = [
            [each.connectors, each.losses, *([each.balance] if each.balance is not None else [])]
            for each in self.distillers
        ]
        for each in self.distillers:
            if each.balance is not None:
                each.balance.reuse = True  # each loss has one backward pass here, with respect to parameters alone
        if later:
            self.parts = nn.ModuleList(map(nn.ModuleList, self._beside))
        self._checked_every: int | float | None = None
        self.metrics = task.metrics()
        self.latest_loss: float | None = None
        """The loss that was last logged; None before the first, after resuming too."""
        self.measured: dict[str, Any] = {}
        """What the last validation measured: what the task's metrics compute."""
        # The step at which each value was first not finite: kept on the device, read when logging.
        self._first_bad: dict[str, Tensor] = {}

    @property
    def progress(self) -> float:
        """Fraction of the stage's optimiser steps that are done, in [0, 1]."""
        first, last = self.borders[self.stage : self.stage + 2]
        return (self.global_step - first) / (last - first)

    def enter(self, step: int) -> None:
        """Switch to the stage, and its distiller, that a step (counted from 0) belongs to."""
        self.stage = min(bisect.bisect(self.borders, step), len(self.distillers)) - 1
        self.distiller = self.distillers[self.stage]

    def ends_step(self, batch_idx: int) -> bool:
        """Whether a batch is the last of those that are accumulated to an optimiser step."""
        return (batch_idx + 1) % self.config.trainer.accumulate == 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """At a stage's first step, switch to its distiller and learning-rate schedule; the optimiser's state stays."""
        if self._checked_every is not None:
            self.trainer.val_check_batch, self._checked_every = self._checked_every, None
        if self.global_step in self.borders[1:-1]:
            self.enter(self.global_step)
            optimizer = self.trainer.optimizers[0]
            _take_rates(optimizer.param_groups, self.configure_optimizers()["optimizer"])
            self.trainer.strategy.lr_scheduler_configs[0].scheduler = self._scheduler(optimizer)

    def networks(self) -> dict[str, Any]:
        """Return the student and the teachers that it learns from, by name."""
        return {"student": self.distiller.student, **self.teachers}

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """Return the state with the student's weights under its own module's names, as checkpoints have them."""
        state = super().state_dict(*args, **options)
        for key in [key for key in state if key.startswith(f"{_STUDENT}module.")]:
            state[_STUDENT + key.removeprefix(f"{_STUDENT}module.")] = state.pop(key)
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Take back what `state_dict` returned."""
        named = {
            f"{_STUDENT}module.{key.removeprefix(_STUDENT)}" if key.startswith(_STUDENT) else key: value
            for key, value in state_dict.items()
        }
        return super().load_state_dict(named, *args, **options)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Run the distiller on one batch."""
        # Dropout depends on seed, batch and process alone, so that a resumed run goes on as if it had never stopped.
        torch.manual_seed(draw_seed(self.config.seed, batch_idx, self.global_rank))
        progress = self.progress
        out: DistillOutput = self.distiller(
            *self.task.inputs(batch),
            progress=progress,
            labelled=batch.get("labelled"),
            views=torch.stack([batch["epoch"], batch["index"]], 1) if "epoch" in batch else None,
            teacher_images=batch.get("image_teacher"),
            crops=batch.get("crop"),
        )
        self._watch(out)
        if self.trainer.world_size > 1:  # DDP waits for the gradient of each parameter, also of other stages'
            out.loss = out.loss + sum(0.0 * parameter.sum() for parameter in self._idle())
        settings, step = self.config.trainer, self.global_step + 1
        if self.ends_step(batch_idx) and (step in (1, settings.max_steps) or step % settings.log_every == 0):
            self._log_training(out, step)
        return out.loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Exclude what only other stages train, which weight decay would move; clip losses' layers that ask for it."""
        for parameter in self._idle():
            parameter.grad = None
        for loss in self.distiller.losses.values():
            if (most := getattr(loss, "gradient_clip", None)) is not None:
                nn.utils.clip_grad_norm_(loss.parameters(), most)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Have a validation at the end of a stage; `Fit` sees to that at the end of the run."""
        if self.global_step in self.borders[1:-1] and self.ends_step(batch_idx):
            self._checked_every, self.trainer.val_check_batch = self.trainer.val_check_batch, 1

    def _idle(self) -> list[nn.Parameter]:
        others = [module for k, each in enumerate(self._beside) if k != self.stage for module in each]
        return [parameter for module in others for parameter in module.parameters()]

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for distiller in self.distillers:
            if distiller is not self.distiller:
                distiller._apply(fn, recurse)
        return self

    def on_validation_start(self) -> None:
        """Give every process the first one's batch-norm statistics: what is measured is what is saved."""
        for buffer in self.distiller.student.buffers() if self.trainer.world_size > 1 else ():
            dist.broadcast(buffer, 0)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Add the student's predictions to the metrics."""
        self.task.count(self.metrics, cast(Network, self.distiller.student), batch)

    def on_validation_epoch_end(self) -> None:
        """Sum the metrics over processes and log them."""
        self.measured = self.metrics.compute()
        self.metrics.reset()
        values = {key: value for key, value in self.task.scalars(self.measured).items() if value == value}
        score = f"val/{self.task.score.key}"
        if score in values:  # repeated in the group that TensorBoard shows first: it sorts them by name, capitals first
            values[f"Overview/{score}"] = values[score]
        self.write(values, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the last validation measured, which a run resumed after its end returns, and the run's length."""
        checkpoint["measured"] = self.measured
        checkpoint["max_steps"] = self.config.trainer.max_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what was measured; if the run's length has changed, set the learning rates for the new length."""
        self.measured = checkpoint["measured"]
        if checkpoint.get("max_steps") == self.config.trainer.max_steps:
            return
        fresh = self.configure_optimizers()
        scheduler = fresh["lr_scheduler"]["scheduler"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, that the optimiser has done no step
            for _ in range(checkpoint["global_step"]):
                scheduler.step()
        checkpoint["lr_schedulers"] = [scheduler.state_dict()]
        _take_rates(checkpoint["optimizer_states"][0]["param_groups"], fresh["optimizer"])

    def configure_optimizers(self) -> Any:
        """Return the optimiser and the learning-rate schedule, which is stepped with it."""
        settings = self.config.optimizer
        student = cast(Network, self.distiller.student)
        modules = [student, *itertools.chain(*self._beside)]
        encoders = registry.find("family", student.family).encoders if student.family else ("encoder",)
        optimizer = make_optimizer(parameter_groups(modules, settings, encoders), settings)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self._scheduler(optimizer), "interval": "step"}}

    def _scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Return the learning-rate schedule of the current stage."""
        first, last = self.borders[self.stage : self.stage + 2]
        return make_scheduler(optimizer, self.config.optimizer, last - first)

    def stop_if_bad(self) -> None:
        """Raise `SegkdError` with the first step at which a term was not finite, if any; waits for the device."""
        if not self._first_bad:
            return
        found = torch.stack(list(self._first_bad.values()))
        if dist.is_available() and dist.is_initialized():
            # Of all processes: one that stops alone would leave the others waiting for it.
            dist.all_reduce(found, dist.ReduceOp.MIN)
        steps = dict(zip(self._first_bad, found.tolist(), strict=True))
        first = min(steps.values())
        if first == _NEVER:
            return
        names = [name for name, step in steps.items() if step == first and name != "loss"] or ["loss"]
        raise SegkdError(
            f"step {first}: the term {', '.join(map(repr, names))} is not finite, training stops: lower its weight or "
            "the learning rate, or set trainer.precision=32-true; checkpoints are from before that step"
        )

    def _log_training(self, out: DistillOutput, step: int) -> None:
        self.stop_if_bad()
        measured = {"train/loss": out.loss.detach()}
        measured |= {f"train/{name}": value for name, value in out.terms.items()}
        if len(out.parts) > 1:
            measured |= {f"train/task_{name}": value for name, value in out.parts.items()}
        if out.pixel_weights is not None:
            measured["train/pixel_weight"] = out.pixel_weights.mean()
        means = over_processes(torch.stack([value.float() for value in measured.values()]))
        values = dict(zip(measured, means.tolist(), strict=True))
        values |= {f"weight/{name}": weight for name, weight in out.weights.items()}
        if self.distiller.balance is not None:
            values |= {f"gradient/{name}": norm for name, norm in self.distiller.balance.gradients().items()}
        if len(self.distillers) > 1:
            values["stage"] = self.stage + 1
        for group in self.trainer.optimizers[0].param_groups:
            values[f"lr/{group['name']}"] = group["lr"]
        self.latest_loss = values["train/loss"]
        self.write(values, step)

    def write(self, values: dict[str, float], step: int) -> None:
        """Write scalars to TensorBoard under the number of steps that are done."""
        # Not by Lightning's log_dict, which would put a step's values one step too early.
        if self.logger is not None:
            self.logger.log_metrics(values, step)

    def _watch(self, out: DistillOutput) -> None:
        # With their weights: a finite value may overflow when it is multiplied.
        weighted = {name: out.weights[name] * value for name, value in out.terms.items()}
        for name, value in {**weighted, "loss": out.loss.detach()}.items():
            first = self._first_bad.get(name, torch.tensor(_NEVER, device=value.device))
            bad = ~torch.isfinite(value) & (first == _NEVER)
            self._first_bad[name] = torch.where(bad, self.global_step + 1, first)


def _take_rates(groups: list[dict[str, Any]], fresh: torch.optim.Optimizer) -> None:
    """Copy all settings but the parameters from another optimiser's groups."""
    for old, new in zip(groups, fresh.param_groups, strict=True):
        old.update({key: value for key, value in new.items() if key != "params"})


def draw_seed(seed: int, batch: int, rank: int) -> int:
    """Return the seed of what is drawn at random for one batch on one process."""
    return int(np.random.SeedSequence([seed, batch, rank]).generate_state(1)[0])
