"""One fit by PyTorch Lightning: its Trainer, the loaders, going on from a checkpoint."""

import contextlib
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console

from segkd.common.progress import say
from segkd.common.weights import check_fit, read_state_dict
from segkd.errors import SegkdError
from segkd.training.callbacks import MetricsFile, Pictures, Watch
from segkd.training.checkpoints import Checkpoints
from segkd.training.cost import Cost
from segkd.training.module import DistillModule
from segkd.training.run import Run
from segkd.training.schema import Config
from segkd.training.stages import ends_of
from segkd.training.task import Task


class Fit:
    """What trains one run: made before anything is written, so that what a machine lacks is known at once.

    Args:
        task: of the run.
        run: where its checkpoints, events and metrics are and go.
        console: where progress is shown.

    Raises:
        SegkdError: the machine has no such devices, a checkpoint cannot be read, or an image of the pictures.
    """

    def __init__(self, task: Task, run: Run, console: Console) -> None:
        self.task, self.config, self.run, self.console = task, task.config, run, console
        self.train_set, self.val_set = task.train_set(), task.val_set()
        config, settings = self.config, self.config.trainer
        self.val_every = min(config.validation.every or max(settings.max_steps // 10, 1), settings.max_steps)
        self.checkpoints = Checkpoints(
            run, task.score, settings.checkpoint_every or self.val_every, self.val_every, ends_of(config)
        )
        self.path: Path | None = None
        self.last: dict[str, Any] | None = None
        if self.checkpoints.found is not None:
            self.path, self.last = self.checkpoints.found
        self.done = 0 if self.last is None else self.last["global_step"]
        if self.checkpoints.remark:
            say(console, f"{config.name}: {self.checkpoints.remark}")
        self.cost = Cost()
        self.trainer = make_trainer(
            config,
            val_check_interval=self.val_every * settings.accumulate,
            check_val_every_n_epoch=None,
            # What was written after the checkpoint, before the run stopped, is hidden.
            logger=_Events(run.directory, name="", version="", default_hp_metric=False, purge_step=self.done + 1),
            callbacks=[
                MetricsFile(run, self.cost),
                Pictures(task, self.val_set),
                Watch(config.name, task.score, console, len(self.train_set), self.val_every),
                self.checkpoints,
                self.cost,
            ],
            plugins=[self.checkpoints.files],
        )

    def __call__(self, module: DistillModule) -> dict[str, Any]:
        """Train from the last checkpoint, or from the start, to the end.

        Returns:
            What the best validation measured, and its ``step``; what the last one did is in ``module.measured``.
        """
        settings = self.config.trainer
        if self.path is not None and self.last is not None:
            module.enter(max(self.done - 1, 0))
            check_fit(module, self.last["state_dict"], self.path)
            if self.checkpoints.best:
                student: Any = module.distiller.student
                check_fit(student.module, read_state_dict(self.run.best), self.run.best)
            if self.done >= settings.max_steps and not self.checkpoints.pending:  # it stopped after its last validation
                module.on_load_checkpoint(self.last)
                self.cost.load_state_dict(self.last["callbacks"]["Cost"])
                if not self.checkpoints.best:
                    self.checkpoints.best_is_last()
                return self.checkpoints.best
        rank, world = self.trainer.global_rank, self.trainer.world_size
        seen = self.done * settings.accumulate * self.config.data.batch_size * world
        loader = self.task.train_loader(self.train_set, seen, rank, world)
        validation = self.task.val_loader(self.val_set, rank, world)
        if settings.compile:
            # Where torchvision's losses index with a mask, tracing fails, is reported, and goes on behind it.
            warnings.filterwarnings("ignore", message=r"Error detected in \w+Backward")
            for distiller in module.distillers:
                distiller.compile()
        try:
            self.trainer.fit(module, loader, validation, ckpt_path=self.path, weights_only=True)
            if self.checkpoints.pending:  # the last step is validated, however many steps lie between two validations
                self.trainer.validate(module, validation, verbose=False)
        except Exception as error:
            if "more than 1 value per channel" in str(error):
                raise SegkdError(f"{self.config.name}: data.batch_size: batch norm needs 2 images at least") from None
            # Lightning and torch say in their own ways that a part of a checkpoint is not what it should be.
            if (
                self.path is not None
                and not self.checkpoints.is_restored
                and not isinstance(error, OSError | SegkdError)
            ):
                reason = " ".join(str(error).split())[:120]
                raise SegkdError(f"{self.path} is not of this run: {type(error).__name__}: {reason}") from error
            raise
        return self.checkpoints.best


def make_trainer(config: Config, **arguments: Any) -> pl.Trainer:
    """Return Lightning's Trainer as the config's ``trainer`` block says, and quiet.

    Raises:
        SegkdError: the machine has no such devices, or cannot do as asked.
    """
    settings = config.trainer
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|lightning_utilities")
    warnings.filterwarnings("ignore", message=r".*(isinstance\(treespec|LeafSpec|lr_scheduler\.step\(\)).*")
    # DDP says so of 1x1xN kernels, whose strides may be written in two ways.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    try:
        return pl.Trainer(
            **{
                "max_steps": settings.max_steps,
                "accelerator": settings.accelerator,
                "devices": settings.devices,
                "num_nodes": settings.num_nodes,
                "strategy": settings.strategy,
                "precision": settings.precision,
                "sync_batchnorm": settings.sync_batchnorm and torch.cuda.is_available(),
                "accumulate_grad_batches": settings.accumulate,
                "gradient_clip_val": settings.gradient_clip,
                "num_sanity_val_steps": 0,
                "enable_checkpointing": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "use_distributed_sampler": False,
                **arguments,
            }
        )
    # What a kind of device needs may not be installed, and Lightning refuses some in ways of its own.
    except (MisconfigurationException, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise SegkdError(f"{config.name}: trainer: {' '.join(str(error).split())}") from None


class _Events(TensorBoardLogger):
    """Writes the events alone: the run's config.yaml says what Lightning's empty hparams.yaml would."""

    def save(self) -> None:
        """Leave hparams.yaml out."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars; Lightning would call each error, a full disk too, one of their types."""
        try:
            super().log_metrics(dict(metrics), step)
        except ValueError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise

    def finalize(self, status: str) -> None:
        """Close the file; where an error has ended the run, it is that which counts."""
        with contextlib.suppress(*() if status == "success" else (OSError,)):
            super().finalize(status)
