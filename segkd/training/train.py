"""One run from its config to its result: the teacher first where there is none, then the student."""

import contextlib
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segkd.common.files import disk_full, is_disk_full
from segkd.common.progress import say
from segkd.common.weights import check_fit, read_state_dict
from segkd.errors import DiskFull, Interrupted, SegkdError
from segkd.signals import held_back, interruptible
from segkd.training import processes
from segkd.training.fit import Fit, lay_out, make_trainer
from segkd.training.measure import measure
from segkd.training.module import DistillModule
from segkd.training.recalibrate import norms_of, recalibrate
from segkd.training.results import environment
from segkd.training.run import Run, changed_keys, resumed_config
from segkd.training.schema import Config
from segkd.training.stages import stage_configs
from segkd.training.storing import Filled, Stores
from segkd.training.tasks import task_of
from segkd.training.teacher import TeachersOf, teacher_configs


def train(config: Config, console: Console, resume: Run | None = None) -> dict[str, Any]:
    """Train what the config says and return its result, which also stands in ``result.json``.

    Args:
        config: of the run.
        console: where progress is shown.
        resume: a run that was begun, to go on with.

    Returns:
        ``student`` (the best validation: its ``step`` and what the task's metrics compute), ``last`` (the same at the
        last step), ``teacher`` or None, ``teachers`` by name where there are several, ``task``, ``classes``,
        ``split``, ``steps``, ``seconds`` and ``peak_memory`` (see `segkd.training.callbacks.Cost`), ``environment``
        (versions and hardware), ``seed``, ``run``. A measure of what does not occur is None.

    Raises:
        SegkdError: what the user gave does not fit, or a value is not finite. Nothing that exists is overwritten.
        DiskFull: a file of the run could not be written; what was written before is whole.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the step was finished and written.
    """
    run = resume or Run.of(config)
    with interruptible(), _stops_named(run, config.trainer.num_nodes):
        return _train(config, console, run, resume is not None)


@contextlib.contextmanager
def _stops_named(run: Run, machines: int) -> Iterator[None]:
    """Within this a signal or a full disk, wherever it occurs, raises one error that says how to resume the run."""
    hook, resume = threading.excepthook, f"go on with 'segkd train --resume {run.directory}'"

    def of_thread(arguments: threading.ExceptHookArgs) -> None:
        # This is TensorBoard's thread: the next write raises the same error in the main one.
        if arguments.exc_value is None or not is_disk_full(arguments.exc_value):
            hook(arguments)

    threading.excepthook = of_thread
    try:
        yield
    except OSError as error:
        if not isinstance(error, DiskFull) and not is_disk_full(error):
            raise
        full = error if isinstance(error, DiskFull) else disk_full(Path(error.filename or run.directory / "events.out"))
        full.way_on = f"free some, then {resume}" if run.config_file.is_file() else full.way_on
        raise full from None
    except Interrupted as stop:
        if not processes.is_first(machines):  # the first process reports it
            raise SystemExit(0) from None
        stop.way_on = resume if run.config_file.is_file() else "the same command goes on"
        raise
    finally:
        threading.excepthook = hook


def _train(config: Config, console: Console, run: Run, is_resumed: bool) -> dict[str, Any]:
    # The processes that Lightning starts for DDP run this function too, after the first has made the directory.
    is_first = processes.is_first(machines := config.trainer.num_nodes)
    console.quiet = console.quiet or not is_first
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    if not is_resumed and is_first:
        run.check_free()
    task = task_of(config)
    is_fresh = not is_resumed or not run.begun
    student = task.student(weights=is_fresh)

    configs = teacher_configs(config)
    teachers = TeachersOf(task, configs)
    # Before a teacher is trained: what does not fit together is found now.
    distillers = [
        (task if stage is config else task_of(stage)).distiller(student, teachers.networks)
        for stage in stage_configs(config)
    ]
    stores = Stores(task, distillers, console)
    fit = Fit(task, run, console, stores)
    if is_resumed and run.finished and fit.checkpoints.step == 0:
        raise SegkdError(f"{run.directory} cannot go further: there is no {run.last}")
    if is_resumed and fit.checkpoints.step >= config.trainer.max_steps != run.config().trainer.max_steps:
        raise SegkdError(
            f"{run.directory} has done {fit.checkpoints.step} steps: trainer.max_steps must be more, to go further"
        )
    # These read the labels: what is wrong with them is found before anything is written.
    of_student = [f"the student: {student.note}"] if student.note else []
    remarks = [
        *config.without_effect(),
        *of_student,
        *teachers.remarks,
        *task.remarks(fit.train_set),
        *task.remarks(fit.val_set),
    ]
    if config.trainer.recalibrate and not norms_of(student):
        remarks.append(
            "trainer.recalibrate: the student has no batch norms to estimate, it is measured in float32 alone"
        )
    for own in configs.values():
        _have_teacher(config, own, console)
    teachers.load()
    if is_fresh and (remark := task.start(student, teachers.networks)):
        remarks.append(remark)
    elif unread := teachers.unread(distillers):
        remarks.append(f"nothing is learnt from {', '.join(unread)}: no term reads it")
    with run.locked() if is_first else contextlib.nullcontext():
        if not is_resumed and is_first:
            run.create(config)
        for teacher in teachers.each.values():
            if teacher.lacks_head:
                task.finish_teacher(teacher.name, teacher.network, run, fit.train_set, console)

        if machines > 1:
            remarks.append(f"training begins when this command runs on all {machines} machines")
        for remark in remarks:
            say(console, f"{config.name}: {remark}")

        module = DistillModule(task, *distillers, teachers=teachers.networks)
        if is_resumed and is_first:
            run.change(config)
        with held_back():
            best = fit(module)
        if is_first:
            best_weights = read_state_dict(run.best)
            check_fit(student.module, best_weights, run.best)
            student.module.load_state_dict(best_weights)
            if batches := config.trainer.recalibrate:
                recalibrate(task, student, fit.train_set, batches)
                best = {**best, **measure(task, student)}
            student.save(run.student)
            measured = {name: measure(task, network, name) for name, network in teachers.predicting.items()}
            run.finish(
                {
                    "run": str(run.directory),
                    "split": config.data.val_split,
                    "classes": task.class_names,
                    "task": config.task,
                    "teacher": measured.get("teacher"),
                    **({} if config.teachers is None else {"teachers": measured}),
                    "student": best,
                    "last": module.measured,
                    "steps": config.trainer.max_steps,
                    "seed": config.seed,
                    "seconds": round(fit.cost.seconds, 3),
                    "peak_memory": fit.cost.peak_memory,
                    **({"store": stores.cost} if stores.wanted else {}),
                    "environment": {**environment(), "processes": fit.trainer.world_size},
                }
            )
    if torch.distributed.is_initialized():  # so that a teacher's run is finished for every process, or for none
        torch.distributed.barrier()
    return run.result()


def fill_stores(config: Config, console: Console) -> list[Filled]:
    """Fill the stores of a config's teachers as its run would, without training; return them.

    Raises:
        SegkdError: no teacher of the config is stored, or see `Stores.fill`.
    """
    if not any(getattr(block, "store", None) for block in config.named_teachers().values()):
        raise SegkdError(f"{config.name}: no teacher is stored: set teacher.store=true")
    return prepare(config, console)[0]


def prepare(config: Config, console: Console, root: Path | None = None) -> tuple[list[Filled], float]:
    """Do what a run of a config does before its first step.

    Args:
        config: of the run.
        console: where progress is shown.
        root: where the stores go, in place of where the config says, to measure how long filling takes: auxiliary heads
            are then not fitted, since their weights do not matter.

    Returns:
        Its teachers' stores, filled; and the seconds of fitting auxiliary heads, which are then thrown away.

    Raises:
        SegkdError: see `Stores.fill`.
    """
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    task, configs = task_of(config), teacher_configs(config)
    student, teachers = task.student(weights=False), TeachersOf(task, configs)
    stages = [task if stage is config else task_of(stage) for stage in stage_configs(config)]
    distillers = [stage.distiller(student, teachers.networks) for stage in stages]
    stores, trainer = Stores(task, distillers, console, root), make_trainer(config, logger=False)
    dataset = task.train_set()
    for own in configs.values():
        _have_teacher(config, own, console)
    teachers.load()
    fitting = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for teacher in teachers.each.values():
            if teacher.lacks_head and root is None:
                begin = time.monotonic()
                task.finish_teacher(teacher.name, teacher.network, Run(folder), dataset, console)
                fitting += time.monotonic() - begin
    for distiller in distillers:
        distiller.to(trainer.strategy.root_device)
        lay_out(distiller, config)
    if not stores.wanted:
        return [], fitting
    precision = trainer.precision_plugin.forward_context
    return stores.fill(dataset, trainer.strategy.root_device, precision, world=trainer.world_size), fitting


def resume(
    directory: str | Path, console: Console, overrides: Sequence[str] | Mapping[str, Any] = ()
) -> dict[str, Any]:
    """Resume the run in a directory, exactly where its last checkpoint stands; see `train` and `resumed_config`.

    With other ``trainer.max_steps`` the learning rate and all schedules go on as at this step of a run of that length.
    """
    run = Run(directory)  # the run goes on in the directory that was named, wherever it was moved to
    return train(resumed_config(run, overrides), console, resume=run)


def _have_teacher(config: Config, own: Config, console: Console) -> None:
    """Make sure that the teacher's run is finished: train it here, or wait for the process that does."""
    run = Run.of(own)
    if _is_begun(run, own) and run.finished:  # asked without the lock: a finished run may be read-only
        return
    waiting = f"{config.name}: another process trains the teacher {own.name} ({run.directory}): waiting for it"
    # On each machine the first process takes the lock, before it starts the others: of several machines whose teacher
    # trains on one, the first to take it trains the teacher.
    is_first = processes.is_first(own.trainer.num_nodes)
    with run.locked(lambda: say(console, waiting)) if is_first else contextlib.nullcontext():
        # Asked again: another process may have made it meanwhile, or ended in the middle of it.
        begun = _is_begun(run, own)
        if not (begun and run.finished):
            how = "resumed" if begun else "trained first: there is no finished run of it"
            say(console, f"{config.name}: the teacher {own.name} is {how}")
            train(own, console, resume=run if begun else None)


def _is_begun(run: Run, own: Config) -> bool:
    """Whether there is a run of this config; raises a SegkdError where it is one of another."""
    if not run.config_file.is_file():
        return False
    if changed := changed_keys(own, run.config().model_copy(update={"name": own.name})):
        raise SegkdError(
            f"the teacher's run {run.directory} was made with another {', '.join(changed[:3])}: give it another "
            "name (teacher.overrides.name=...), or remove that run"
        )
    return True
