"""One fit by PyTorch Lightning: its Trainer, the loaders, resuming from a checkpoint."""

import contextlib
import logging
import warnings
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console
from torch import nn

from segkd.common.progress import say
from segkd.common.weights import check_fit, read_state_dict
from segkd.errors import SegkdError
from segkd.training.average import StudentAverage
from segkd.training.callbacks import Cost, MetricsFile, Pictures, Watch
from segkd.training.checkpoints import Checkpoints
from segkd.training.module import DistillModule
from segkd.training.processes import check_machines
from segkd.training.run import Run
from segkd.training.schema import Config
from segkd.training.stages import ends_of
from segkd.training.storing import Stores
from segkd.training.sync_norms import SyncNorms
from segkd.training.task import Task


class Fit:
    """Trains one run; made before anything is written, so that what a machine lacks is found at once."""

    def __init__(self, task: Task, run: Run, console: Console, stores: Stores) -> None:
        self.task, self.config, self.run = task, task.config, run
        self.train_set, self.val_set = task.train_set(), task.val_set()
        config, settings = self.config, self.config.trainer
        every = min(config.validation.every or max(settings.max_steps // 10, 1), settings.max_steps)
        average = None if settings.ema is None else StudentAverage(settings.ema)
        self.checkpoints = Checkpoints(
            run, task.score, settings.checkpoint_every or every, every, ends_of(config), average
        )
        if self.checkpoints.remark:
            say(console, f"{config.name}: {self.checkpoints.remark}")
        self.cost = Cost()
        self.trainer = make_trainer(
            config,
            val_check_interval=every * settings.accumulate,
            check_val_every_n_epoch=None,
            # Events written after the checkpoint, before the run stopped, are hidden.
            logger=_Events(
                run.directory, name="", version="", default_hp_metric=False, purge_step=self.checkpoints.step + 1
            ),
            callbacks=[
                *([average] if average is not None else []),
                MetricsFile(run, self.cost),
                Pictures(task, self.val_set),
                Watch(config.name, task.score, console, len(self.train_set), every),
                self.checkpoints,
                stores,
                self.cost,
            ],
            plugins=[self.checkpoints.files],
        )

    def __call__(self, module: DistillModule) -> dict[str, Any]:
        """Train from the last checkpoint, or from the start, to the end, and return what the best validation measured.

        The result includes its ``step``; what the last validation measured is in ``module.measured``.
        """
        settings, found = self.config.trainer, self.checkpoints
        if found.path is not None:
            module.enter(max(found.step - 1, 0))
            check_fit(module, found.content["state_dict"], found.path)
            if found.best:
                student: Any = module.distiller.student
                check_fit(student.module, read_state_dict(self.run.best), self.run.best)
        lay_out(module, self.config)
        rank, world = self.trainer.global_rank, self.trainer.world_size
        if found.path is not None and found.step >= settings.max_steps and not found.pending:
            # It stopped after its last validation. Several processes begin all the same, to wait for the first.
            if not found.best:
                found.best_is_last(writes=rank == 0)
            if world == 1:
                module.on_load_checkpoint(found.content)
                self.cost.load_state_dict(found.content["callbacks"]["Cost"])
                return found.best
        # By this TensorBoard's writer goes; it is the last Trainer's that was made, which may be that of a student on
        # several machines, whose teacher is trained on one.
        rank_zero_only.rank = rank  # type: ignore[attr-defined]
        seen = found.step * settings.accumulate * self.config.data.batch_size * world
        loader = self.task.train_loader(self.train_set, seen, rank, world)
        validation = self.task.val_loader(self.val_set, rank, world)
        if settings.compile:
            # torchvision's losses index with a mask: tracing fails there, warns, and continues after it.
            warnings.filterwarnings("ignore", message=r"Error detected in \w+Backward")
            for distiller in module.distillers:
                distiller.compile()
        try:
            self.trainer.fit(module, loader, validation, ckpt_path=found.path, weights_only=True)
            if found.pending:  # the last step is validated, however many steps lie between two validations
                self.trainer.validate(module, validation, verbose=False)
        except Exception as error:
            if "more than 1 value per channel" in str(error):
                raise SegkdError(f"{self.config.name}: data.batch_size: batch norm needs 2 images at least") from None
            # Lightning and torch say in their own ways that a part of a checkpoint is not what it should be.
            if found.path is not None and not found.is_restored and not isinstance(error, OSError | SegkdError):
                reason = " ".join(str(error).split())[:120]
                raise SegkdError(f"{found.path} is not of this run: {type(error).__name__}: {reason}") from error
            raise
        return found.best


# Parts of the names of Lightning's strategies whose processes do not run the command: ddp_spawn, ddp_fork, ...
_WITHIN = {"spawn", "fork", "notebook"}


def lay_out(module: nn.Module, config: Config) -> None:
    """Set the weights' memory format as the config says; convolutions return maps in the format of their weights."""
    if config.trainer.channels_last:
        module.to(memory_format=torch.channels_last)


def make_trainer(config: Config, **arguments: Any) -> pl.Trainer:
    """Return Lightning's Trainer as the config's ``trainer`` block says, silenced; raise where it cannot be made."""
    settings = config.trainer
    if _WITHIN.intersection(settings.strategy.split("_")):
        raise SegkdError(
            f"{config.name}: trainer.strategy: expected one that starts the command in each process, such as ddp, got "
            f"{settings.strategy!r}"
        )
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|lightning_utilities")
    warnings.filterwarnings("ignore", message=r".*(isinstance\(treespec|LeafSpec|lr_scheduler\.step\(\)).*")
    # DDP warns of this for 1x1xN kernels, whose strides may be written in two ways.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    same = ("max_steps", "accelerator", "devices", "num_nodes", "strategy", "precision")
    off = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    options = {
        **{name: getattr(settings, name) for name in same},
        **dict.fromkeys(off, False),
        "accumulate_grad_batches": settings.accumulate,
        "gradient_clip_val": settings.gradient_clip,
        "num_sanity_val_steps": 0,
    }
    if settings.sync_batchnorm and settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        arguments = {**arguments, "plugins": [*arguments.get("plugins", ()), SyncNorms()]}
    try:
        trainer = pl.Trainer(**(options | arguments))
    # A library for the device may be missing, and Lightning refuses some settings with errors of other types.
    except (MisconfigurationException, ValueError, RuntimeError, TypeError, ImportError) as error:
        raise SegkdError(f"{config.name}: trainer: {' '.join(str(error).split())}") from None
    check_machines(config.name, trainer)
    return trainer


class _Events(TensorBoardLogger):
    """Writes events only: the run's config.yaml replaces Lightning's hparams.yaml, which would be empty."""

    def save(self) -> None:
        """Leave hparams.yaml out."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars; Lightning reports any error, a full disk too, as one of their types: the cause is raised."""
        try:
            super().log_metrics(dict(metrics), step)
        except ValueError as error:
            if isinstance(error.__cause__, OSError):
                raise error.__cause__ from None
            raise

    def finalize(self, status: str) -> None:
        """Close the file; where the run failed, an error here does not hide its own."""
        with contextlib.suppress(*() if status == "success" else (OSError,)):
            super().finalize(status)
