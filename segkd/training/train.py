"""One run from its config to its result: the teacher first where there is none, then the student."""

import time
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from rich.console import Console

from segkd.errors import SegkdError
from segkd.segmentation.datasets import DatasetSpec
from segkd.segmentation.loading import SegmentationDataset, train_loader
from segkd.segmentation.student import save_student
from segkd.segmentation.weights import load_weights
from segkd.training import teacher as teachers
from segkd.training.build import (
    build_distiller,
    build_spec,
    build_student,
    build_train_set,
    build_val_set,
    model_normalization,
    student_info,
)
from segkd.training.evaluate import best_device, measure_teacher
from segkd.training.fit import Fit
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
        (the same at the last step), ``teacher`` or None, ``classes``, ``split``, ``steps``, ``seconds``
        (since the run was last begun or resumed), ``seed``, ``run``. A measure of what does not occur is None.

    Raises:
        SegkdError: what the user gave does not fit, or a value is not finite. Nothing that exists is overwritten.
    """
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
    fit = Fit(config, run, train_set, val_set, spec, console)
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
    best = fit(module)
    seconds = time.monotonic() - started
    if is_first:
        load_weights(student, run.best)
        save_student(student, run.student, info=student_info(config, spec))
        run.finish(
            {
                "run": str(run.directory),
                "split": config.data.val_split,
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
