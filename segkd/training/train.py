"""One run from its config to its result: the teacher first where there is none, then the student."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console

from segkd.errors import SegkdError
from segkd.segmentation.datasets import DatasetSpec
from segkd.segmentation.loading import SegmentationDataset, eval_loader, train_loader
from segkd.segmentation.student import save_student
from segkd.segmentation.weights import load_weights
from segkd.training import teacher as teachers
from segkd.training.boards import Pictures
from segkd.training.build import (
    build_distiller,
    build_spec,
    build_student,
    build_train_set,
    build_val_set,
    model_normalization,
)
from segkd.training.callbacks import Checkpoints, MetricsFile, Watch
from segkd.training.evaluate import best_device, measure_teacher
from segkd.training.module import DistillModule
from segkd.training.run import Run
from segkd.training.schema import Config


def train(config: Config, console: Console, source: Path | None = None, resume: Run | None = None) -> dict[str, Any]:
    """Train what the config says and return its result, which also stands in ``result.json``.

    Args:
        config: of the run.
        console: where progress is shown.
        source: the folder of the config file: a teacher's config is looked for there first.
        resume: a run that was begun, to go on with.

    Returns:
        ``student`` (the best validation: ``step``, ``miou``, ``pixel_accuracy``, ``class_accuracy``, ``iou``), ``last``
        (the same at the last step), ``teacher`` or None, ``classes``, ``steps``, ``seconds``, ``seed``, ``run``.

    Raises:
        SegkdError: what the user gave does not fit, or a value is not finite. Nothing that exists is overwritten.
    """
    _quiet()
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    run = resume or Run(Path(config.runs) / config.name)
    # The processes that Lightning starts for DDP run this function too, after the first has made the directory.
    if resume is None and _is_first():
        run.check_free()
    spec = build_spec(config)
    train_set, val_set = build_train_set(config, spec), build_val_set(config, spec)
    student = build_student(config, spec, weights=resume is None or not run.last.is_file())

    own = teachers.teacher_config(config, source)
    if own is not None:
        teachers.finished_run(own, lambda teacher, begun: _train_teacher(config, teacher, console, source, begun))
    loaded = None if config.teacher is None else teachers.load_teacher(config.teacher, spec.num_classes, own)
    distiller = build_distiller(config, spec, student, loaded)
    if resume is None and _is_first():
        run.create(config)
    if loaded is not None and loaded.needs_fit:
        _fit_auxiliary(config, run, loaded, train_set, spec, console)

    module = DistillModule(config, distiller, model_normalization(config.student), spec.class_names, spec.ignore_index)
    started = time.monotonic()
    checkpoints = _fit(config, run, module, train_set, val_set, spec, console)
    seconds = time.monotonic() - started

    load_weights(student, run.best if run.best.is_file() else run.last)
    mean, std = model_normalization(config.student)
    info = {
        "classes": spec.class_names,
        "colors": spec.colors,
        "ignore_index": spec.ignore_index,
        "dataset": spec.name,
        "mean": list(mean),
        "std": list(std),
        "size": config.validation.resize,
    }
    result = {
        "run": str(run.directory),
        "classes": spec.class_names,
        "teacher": None if loaded is None else measure_teacher(loaded, config, spec),
        "student": checkpoints.best,
        "last": module.measured,
        "steps": config.trainer.max_steps,
        "seed": config.seed,
        "seconds": round(seconds, 1),
    }
    if _is_first():
        save_student(student, run.student, info=info)
        run.finish(result)
    return result


def resume(directory: str | Path, console: Console) -> dict[str, Any]:
    """Go on with a run that was begun, exactly where its last checkpoint stands.

    Raises:
        SegkdError: this is no run, or it is finished.
    """
    run = Run(directory)
    config = run.config()
    if run.finished:
        raise SegkdError(f"{run.directory} is finished: there is nothing to resume")
    # The run goes on in the directory that was named, wherever it was moved to.
    return train(config, console, source=run.directory, resume=run)


def _train_teacher(config: Config, own: Config, console: Console, source: Path | None, begun: Run | None) -> None:
    word = "resumed" if begun else "trained first: there is no finished run of it"
    console.print(f"[bold]{config.name}[/]: the teacher {own.name} is {word}")
    assert config.teacher is not None
    train(own, console, source, resume=begun)


def _fit_auxiliary(
    config: Config,
    run: Run,
    loaded: teachers.LoadedTeacher,
    train_set: SegmentationDataset,
    spec: DatasetSpec,
    console: Console,
) -> None:
    if run.teacher_auxiliary.is_file():
        teachers.load_auxiliary(loaded, run.teacher_auxiliary)
        return
    assert config.teacher is not None
    settings = config.teacher.auxiliary_fit
    console.print(f"[bold]{config.name}[/]: training an auxiliary head on the teacher, {settings.steps} steps")
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in loaded.normalization)
    loader = train_loader(train_set, batch_size=config.data.batch_size, workers=config.data.workers, seed=config.seed)
    batches = (((batch["image"].float() / 255 - mean) / std, batch["mask"]) for batch in loader)
    losses: list[float] = []
    torch.manual_seed(config.seed)
    teachers.fit_auxiliary(
        loaded,
        batches,
        settings.steps,
        settings.lr,
        spec.ignore_index,
        best_device(),
        report=lambda step, loss: losses.append(loss),
    )
    if _is_first():
        teachers.save_auxiliary(loaded, run.teacher_auxiliary)
    console.print(f"[bold]{config.name}[/]: its loss went from {losses[0]:.3f} to {losses[-1]:.3f}")


def _fit(
    config: Config,
    run: Run,
    module: DistillModule,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    spec: DatasetSpec,
    console: Console,
) -> Checkpoints:
    settings, data = config.trainer, config.data
    val_every = min(config.validation.every or max(settings.max_steps // 10, 1), settings.max_steps)
    checkpoints = Checkpoints(run, settings.checkpoint_every or val_every)
    pictures = Pictures(val_set, spec, config.validation.pictures)
    try:
        trainer = pl.Trainer(
            max_steps=settings.max_steps,
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=settings.strategy,
            precision=settings.precision,
            sync_batchnorm=settings.sync_batchnorm and torch.cuda.is_available(),
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.gradient_clip,
            val_check_interval=val_every * settings.accumulate,
            check_val_every_n_epoch=None,
            log_every_n_steps=1,  # the module itself logs every trainer.log_every
            num_sanity_val_steps=0,
            logger=_Events(run.directory, name="", version="", default_hp_metric=False),
            # The checkpoint of a validation holds what it measured: checkpoints come last.
            callbacks=[MetricsFile(run.metrics), pictures, Watch(config.name, console), checkpoints],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise SegkdError(f"{config.name}: trainer: {' '.join(str(error).split())}") from None
    done = torch.load(run.last, map_location="cpu", weights_only=True)["global_step"] if run.last.is_file() else 0
    rank, world = trainer.global_rank, trainer.world_size
    loader = train_loader(
        train_set,
        batch_size=data.batch_size,
        workers=data.workers,
        seed=config.seed,
        start=done * settings.accumulate * data.batch_size * world,
        rank=rank,
        world=world,
    )
    validation = eval_loader(
        val_set, batch_size=config.validation.batch_size, workers=data.workers, rank=rank, world=world
    )
    # Dropout and the like go on from a place of their own after resuming, the same for every method.
    pl.seed_everything(config.seed + done, verbose=False)
    if settings.compile:
        module.distiller.compile()
    if done < settings.max_steps:
        trainer.fit(module, loader, validation, ckpt_path=run.last if done else None, weights_only=True)
    if trainer.interrupted:
        raise SegkdError(
            f"interrupted at step {trainer.global_step}: go on with 'segkd train --resume {run.directory}'"
        )
    if settings.max_steps % val_every or done >= settings.max_steps:
        trainer.validate(module, validation, ckpt_path=run.last, weights_only=True, verbose=False)
    return checkpoints


class _Events(TensorBoardLogger):
    """Writes the events alone: the run's config.yaml says what Lightning's empty hparams.yaml would."""

    def save(self) -> None:
        """Leave hparams.yaml out."""


def _is_first() -> bool:
    """Whether this is the first process of all, or the only one."""
    return getattr(rank_zero_only, "rank", 0) == 0


def _quiet() -> None:
    """Silence what Lightning says of itself; what matters to a person is said by the callbacks."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|lightning_utilities")
    warnings.filterwarnings("ignore", message=r".*(isinstance\(treespec|LeafSpec|lr_scheduler\.step\(\)).*")
