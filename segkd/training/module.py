"""The Lightning module: one distilled step, one validation step, what is logged."""

import warnings
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor

from segkd.distiller import Distiller, DistillOutput
from segkd.errors import SegkdError
from segkd.losses._rows import over_processes
from segkd.training.optim import make_optimizer, make_scheduler, parameter_groups
from segkd.training.task import Task


class DistillModule(pl.LightningModule):
    """Trains a distiller by steps; the unit of every schedule is the optimiser step.

    Args:
        task: of the run.
        distiller: what it trains.
    """

    distiller: Distiller

    def __init__(self, task: Task, distiller: Distiller) -> None:
        super().__init__()
        self.task, self.config, self.distiller = task, task.config, distiller
        self.metrics = task.metrics()
        self.latest_loss = float("nan")
        self.measured: dict[str, Any] = {}
        """What the last validation measured: what the task's metrics compute."""
        # The step at which each value was first not finite, -1 while it is: kept on the device, read when logging.
        self._first_bad: dict[str, Tensor] = {}

    @property
    def progress(self) -> float:
        """Share of the optimiser steps that are done."""
        return self.global_step / self.config.trainer.max_steps

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Run the distiller on one batch."""
        # Dropout draws from the batch's number alone, so that a resumed run goes on as if it had never stopped.
        torch.manual_seed(draw_seed(self.config.seed, batch_idx, self.global_rank))
        out: DistillOutput = self.distiller(
            *self.task.inputs(batch),
            progress=self.progress,
            labelled=batch.get("labelled"),
            teacher_images=batch.get("image_teacher"),
        )
        self._watch(out)
        settings, step = self.config.trainer, self.global_step + 1
        ends_step = (batch_idx + 1) % settings.accumulate == 0
        if ends_step and (step in (1, settings.max_steps) or step % settings.log_every == 0):
            self._log_training(out, step)
        return out.loss

    def on_validation_start(self) -> None:
        """Give every process the first one's batch-norm statistics: what is measured is what is saved."""
        if self.trainer.world_size > 1:
            for buffer in self.distiller.student.buffers():
                torch.distributed.broadcast(buffer, 0)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Count the student's predictions."""
        self.task.count(self.metrics, self.distiller.student, batch)

    def on_validation_epoch_end(self) -> None:
        """Sum the metrics over processes and log what they say."""
        self.measured = self.metrics.compute()
        self.metrics.reset()
        values = {key: value for key, value in self.scalars().items() if value == value}
        score = f"val/{self.task.score}"
        if score in values:  # once more under what TensorBoard puts first: it orders groups by name, capitals before
            values[f"Overview/{score}"] = values[score]
        self.write(values, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the last validation measured, which ends the result of a run that is resumed after its last step."""
        checkpoint["measured"] = self.measured
        checkpoint["max_steps"] = self.config.trainer.max_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back; where the run is to be of another length now, put the rates of such a run in."""
        self.measured = checkpoint["measured"]
        if checkpoint.get("max_steps") != self.config.trainer.max_steps:
            self._set_course(checkpoint)

    def _set_course(self, checkpoint: dict[str, Any]) -> None:
        """Replace the learning rates and their schedule by what they are at this step in a run of this length."""
        fresh = self.configure_optimizers()
        scheduler = fresh["lr_scheduler"]["scheduler"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, that the optimiser has done no step
            for _ in range(checkpoint["global_step"]):
                scheduler.step()
        checkpoint["lr_schedulers"] = [scheduler.state_dict()]
        groups = checkpoint["optimizer_states"][0]["param_groups"]
        for old, new in zip(groups, fresh["optimizer"].param_groups, strict=True):
            old.update({key: value for key, value in new.items() if key != "params"})

    def scalars(self) -> dict[str, float]:
        """Return what the last validation measured by the names under which it is logged; NaN for an absent class."""
        return self.task.scalars(self.measured)

    def configure_optimizers(self) -> Any:
        """Return the optimiser and the learning rate's course, stepped with it."""
        settings = self.config.optimizer
        modules = (self.distiller.student, self.distiller.connectors, self.distiller.losses)
        optimizer = make_optimizer(parameter_groups(modules, settings), settings)
        scheduler = make_scheduler(optimizer, settings, self.config.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def stop_if_bad(self) -> None:
        """Raise `SegkdError` if a term was not finite, at the first such step; reads from the device."""
        if not self._first_bad:
            return
        found = torch.stack(list(self._first_bad.values()))
        if dist.is_available() and dist.is_initialized():
            # Of all processes: one that stops alone would leave the others waiting for it.
            found = torch.where(found < 0, torch.iinfo(found.dtype).max, found)
            dist.all_reduce(found, dist.ReduceOp.MIN)
            found = torch.where(found == torch.iinfo(found.dtype).max, -1, found)
        steps = {name: step for name, step in zip(self._first_bad, found.tolist(), strict=True) if step >= 0}
        if not steps:
            return
        first = min(steps.values())
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
        for group in self.trainer.optimizers[0].param_groups:
            values[f"lr/{group['name']}"] = group["lr"]
        self.latest_loss = values["train/loss"]
        self.write(values, step)

    def write(self, values: dict[str, float], step: int) -> None:
        """Write scalars to TensorBoard, at the number of steps that were done with them."""
        # Not by Lightning's log_dict, which would put a step's values one step too early.
        if self.logger is not None:
            self.logger.log_metrics(values, step)

    def _watch(self, out: DistillOutput) -> None:
        # As they enter the loss: a finite value may overflow under its weight.
        weighted = {name: out.weights[name] * value for name, value in out.terms.items()}
        for name, value in {**weighted, "loss": out.loss.detach()}.items():
            first = self._first_bad.get(name, torch.tensor(-1, device=value.device))
            bad = ~torch.isfinite(value) & (first < 0)
            self._first_bad[name] = torch.where(bad, self.global_step + 1, first)


def draw_seed(seed: int, batch: int, rank: int) -> int:
    """Return the seed of what is drawn at random for one batch on one process."""
    return int(np.random.SeedSequence([seed, batch, rank]).generate_state(1)[0])
