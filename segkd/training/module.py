"""The Lightning module: one distilled step, one validation step, what is logged."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from segkd.adapter import Normalization
from segkd.distiller import Distiller, DistillOutput
from segkd.errors import SegkdError
from segkd.segmentation.inference import predict_logits
from segkd.segmentation.metrics import SegmentationMetrics
from segkd.training.optim import make_optimizer, make_scheduler, parameter_groups
from segkd.training.schema import Config


def predict_as_configured(model: torch.nn.Module, images: Tensor, target: Tensor, config: Config) -> Tensor:
    """Return logits (B, C, H, W) at label size for images normalised for the model, as ``validation`` says."""
    settings = config.validation
    return predict_logits(
        model,
        images,
        (target.shape[-2], target.shape[-1]),
        mode=settings.mode,
        window=settings.window or config.data.crop,
        stride=settings.stride,
    )


class DistillModule(pl.LightningModule):
    """Trains a distiller by steps; the unit of every schedule is the optimiser step.

    Args:
        config: of the run.
        distiller: from `segkd.training.build.build_distiller`.
        normalization: (mean, std) of the student's images, applied here to the loader's uint8 images.
        class_names: of the data set.
        ignore_index: of the data set.
    """

    mean: Tensor
    std: Tensor
    config: Config
    distiller: Distiller

    def __init__(
        self,
        config: Config,
        distiller: Distiller,
        normalization: Normalization,
        class_names: list[str],
        ignore_index: int,
    ) -> None:
        super().__init__()
        self.config, self.distiller, self.class_names = config, distiller, class_names
        self.metrics = SegmentationMetrics(len(class_names), ignore_index)
        self.latest_loss = float("nan")
        self.measured: dict[str, Any] = {}
        """What the last validation measured, see `SegmentationMetrics.compute`."""
        mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in normalization)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        # The step at which each value was first not finite, -1 while it is: kept on the device, read when logging.
        self._first_bad: dict[str, Tensor] = {}

    @property
    def progress(self) -> float:
        """Share of the optimiser steps that are done."""
        return self.global_step / self.config.trainer.max_steps

    def normalize(self, images: Tensor) -> Tensor:
        """Return uint8 images (B, 3, H, W) as the student takes them."""
        return (images.float() / 255 - self.mean) / self.std

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Run the distiller on one batch."""
        out: DistillOutput = self.distiller(self.normalize(batch["image"]), batch["mask"], progress=self.progress)
        self._watch(out)
        if self.global_step % self.config.trainer.log_every == 0 or self.global_step + 1 == self.trainer.max_steps:
            self._log_training(out)
        return out.loss

    def on_train_end(self) -> None:
        """Name the term that was not finite, if one was since the last look."""
        self._stop_if_bad()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Count the student's predictions at label size."""
        images = self.normalize(batch["image"])
        self.metrics.update(
            predict_as_configured(self.distiller.student, images, batch["mask"], self.config), batch["mask"]
        )

    def on_validation_epoch_end(self) -> None:
        """Sum the confusion matrix over processes and log what it says."""
        self.measured = self.metrics.compute()
        self.metrics.reset()
        self.log_dict({key: value for key, value in self.scalars().items() if value == value}, rank_zero_only=True)

    def scalars(self) -> dict[str, float]:
        """Return what the last validation measured by the names under which it is logged; NaN for an absent class."""
        named = {f"val/{key}": value for key, value in self.measured.items() if key != "iou"}
        return named | {f"iou/{name}": v for name, v in zip(self.class_names, self.measured["iou"], strict=True)}

    def configure_optimizers(self) -> Any:
        """Return the optimiser and the learning rate's course, stepped with it."""
        settings = self.config.optimizer
        modules = (self.distiller.student, self.distiller.connectors, self.distiller.losses)
        optimizer = make_optimizer(parameter_groups(modules, settings), settings)
        scheduler = make_scheduler(optimizer, settings, self.config.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _log_training(self, out: DistillOutput) -> None:
        self._stop_if_bad()
        values: dict[str, Any] = {"train/loss": out.loss.detach()}
        values |= {f"train/{name}": value for name, value in out.terms.items()}
        values |= {f"weight/{name}": weight for name, weight in out.weights.items()}
        if out.pixel_weights is not None:
            values["train/pixel_weight"] = out.pixel_weights.mean()
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            values[f"lr/{group['name']}"] = group["lr"]
        self.latest_loss = float(values["train/loss"])
        self.log_dict({key: torch.as_tensor(value, dtype=torch.float32) for key, value in values.items()})

    def _watch(self, out: DistillOutput) -> None:
        for name, value in {**out.terms, "loss": out.loss.detach()}.items():
            first = self._first_bad.get(name, torch.tensor(-1, device=value.device))
            bad = ~torch.isfinite(value) & (first < 0)
            self._first_bad[name] = torch.where(bad, self.global_step, first)

    def _stop_if_bad(self) -> None:
        steps = {name: int(step) for name, step in self._first_bad.items() if int(step) >= 0}
        if not steps:
            return
        first = min(steps.values())
        names = [name for name, step in steps.items() if step == first and name != "loss"] or ["loss"]
        raise SegkdError(
            f"step {first}: the term {', '.join(map(repr, names))} is not finite, training stops: lower its weight or "
            "the learning rate, or set trainer.precision=32-true; the last checkpoint is from before that step"
        )
