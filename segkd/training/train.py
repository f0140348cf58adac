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
    student_info,
)
from segkd.training.callbacks import Checkpoints, MetricsFile, Watch
from segkd.training.evaluate import best_device, measure_teacher
from segkd.training.module import DistillModule
from segkd.training.run import Run
from segkd.training.schema import Config


def train(config: Config, console: Console, resume: Run | None = None) -> dict[str, Any]:
    """Train what the config says and return its result, which also stands in ``result.json``.

    Args:
        config: of the run.
        console: where progress is shown.
        resume: a run that was begun, to go on with.

    Returns:
        ``student`` (the best validation: ``step``, ``miou``, ``pixel_accuracy``, ``class_accuracy``, ``iou``), ``last``
        (the same at the last step), ``teacher`` or None, ``classes``, ``steps``, ``seconds`` (since the run was last
        begun or resumed), ``seed``, ``run``. A measure of what does not occur is None.

    Raises:
        SegkdError: what the user gave does not fit, or a value is not finite. Nothing that exists is overwritten.
    """
    _quiet()
    # The processes that Lightning starts for DDP run this function too, after the first has made the directory.
    is_first = getattr(rank_zero_only, "rank", 0) == 0
    console.quiet = not is_first
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    run = resume or Run.of(config)
    if resume is None and is_first:
        run.check_free()
    spec = build_spec(config)
    train_set, val_set = build_train_set(config, spec), build_val_set(config, spec)
    student = build_student(config, spec, weights=resume is None or not run.last.is_file())

    own = teachers.teacher_config(config)
    teacher = None if config.teacher is None else teachers.build_teacher(config.teacher, spec.num_classes, own)
    # Before the teacher is trained: what does not fit together is found now.
    distiller = build_distiller(config, spec, student, teacher)
    if own is not None:
        teachers.finished_run(own, lambda begun: _train_teacher(config, own, console, begun))
    if teacher is not None:
        assert config.teacher is not None
        teachers.load_teacher(teacher, config.teacher.auxiliary)
    if resume is None and is_first:
        run.create(config)
    if teacher is not None and teacher.needs_fit:
        _fit_auxiliary(config, run, teacher, train_set, spec, console)

    module = DistillModule(config, distiller, model_normalization(config.student), spec.class_names, spec.ignore_index)
    started = time.monotonic()
    best = _fit(config, run, module, train_set, val_set, spec, console)
    seconds = time.monotonic() - started
    if is_first:
        load_weights(student, run.best)
        save_student(student, run.student, info=student_info(config, spec))
        run.finish(
            {
                "run": str(run.directory),
                "classes": spec.class_names,
                "teacher": None if teacher is None else measure_teacher(teacher, config, spec),
                "student": best,
                "last": module.measured,
                "steps": config.trainer.max_steps,
                "seed": config.seed,
                "seconds": round(seconds, 1),
            }
        )
    if torch.distributed.is_initialized():  # a teacher's run is finished for every process, or for none
        torch.distributed.barrier()
    return run.result()


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
    return train(config, console, resume=run)


def _train_teacher(config: Config, own: Config, console: Console, begun: Run | None) -> None:
    word = "resumed" if begun else "trained first: there is no finished run of it"
    console.print(f"{config.name}: the teacher {own.name} is {word}", highlight=False, soft_wrap=True)
    train(own, console, resume=begun)


def _fit_auxiliary(
    config: Config,
    run: Run,
    teacher: teachers.BuiltTeacher,
    train_set: SegmentationDataset,
    spec: DatasetSpec,
    console: Console,
) -> None:
    if run.teacher_auxiliary.is_file():
        teachers.load_auxiliary(teacher, run.teacher_auxiliary)
        return
    assert config.teacher is not None
    settings = config.teacher.auxiliary_fit
    console.print(
        f"{config.name}: an auxiliary head is trained on the teacher, {settings.steps} steps", highlight=False
    )
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in teacher.normalization)
    loader = train_loader(train_set, batch_size=config.data.batch_size, workers=config.data.workers, seed=config.seed)
    batches = (((batch["image"].float() / 255 - mean) / std, batch["mask"]) for batch in loader)
    losses: list[float] = []
    torch.manual_seed(config.seed)
    teachers.fit_auxiliary(
        teacher,
        batches,
        settings.steps,
        settings.lr,
        spec.ignore_index,
        best_device(),
        report=lambda step, loss: losses.append(loss),
    )
    if not console.quiet:
        teachers.save_auxiliary(teacher, run.teacher_auxiliary)
    console.print(f"{config.name}: its loss went from {losses[0]:.3f} to {losses[-1]:.3f}", highlight=False)


def _fit(
    config: Config,
    run: Run,
    module: DistillModule,
    train_set: SegmentationDataset,
    val_set: SegmentationDataset,
    spec: DatasetSpec,
    console: Console,
) -> dict[str, Any]:
    """Train from the last checkpoint, or from the start, to the end; return what the best validation measured."""
    settings, data = config.trainer, config.data
    val_every = min(config.validation.every or max(settings.max_steps // 10, 1), settings.max_steps)
    checkpoints = Checkpoints(run, settings.checkpoint_every or val_every, val_every, settings.max_steps)
    pictures = Pictures(val_set, spec, config.validation.pictures)
    last = torch.load(run.last, map_location="cpu", weights_only=True) if run.last.is_file() else None
    done = 0 if last is None else last["global_step"]
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
            # What was written after the checkpoint, before the run stopped, is hidden.
            logger=_Events(run.directory, name="", version="", default_hp_metric=False, purge_step=done + 1),
            callbacks=[MetricsFile(run.metrics), pictures, Watch(config.name, console), checkpoints],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise SegkdError(f"{config.name}: trainer: {' '.join(str(error).split())}") from None
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
    if settings.compile:
        module.distiller.compile()
    if last is not None and done >= settings.max_steps:  # it stopped after its last validation
        module.on_load_checkpoint(last)
        return checkpoints.best
    try:
        trainer.fit(module, loader, validation, ckpt_path=run.last if done else None, weights_only=True)
    except SystemExit:  # how Lightning ends after Ctrl-C
        console.print(f"interrupted: go on with 'segkd train --resume {run.directory}'", soft_wrap=True)
        raise
    if settings.max_steps % val_every:
        trainer.validate(module, validation, verbose=False)
    return checkpoints.best


class _Events(TensorBoardLogger):
    """Writes the events alone: the run's config.yaml says what Lightning's empty hparams.yaml would."""

    def save(self) -> None:
        """Leave hparams.yaml out."""


def _quiet() -> None:
    """Silence what Lightning says of itself; what matters to a person is said by the callbacks."""
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pytorch_lightning|lightning_fabric|lightning_utilities")
    warnings.filterwarnings("ignore", message=r".*(isinstance\(treespec|LeafSpec|lr_scheduler\.step\(\)).*")
