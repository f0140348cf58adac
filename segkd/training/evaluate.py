"""Measuring the models of a run or a config on the validation split, outside of training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from segkd.errors import SegkdError
from segkd.training.config import check_named, load_config
from segkd.training.run import Run
from segkd.training.tasks import dataset_of, task_of


def evaluate(
    target: str, overrides: Sequence[str] | Mapping[str, Any], device: str | None = None, console: Console | None = None
) -> dict[str, Any]:
    """Measure the models of a run directory or a config.

    Args:
        target: a run directory, or a config: its teacher, and its student where a run of it or a checkpoint exists.
        overrides: changes to the config, see `load_config`.
        device: see `segkd.common.devices.find_device`; what the config's ``trainer.accelerator`` says unless given.
        console: where progress is shown if it is a terminal; None for nowhere.

    Returns:
        ``classes``, and for each of ``teacher`` and ``student`` that exists what was measured, ``teachers`` by name
        where there are several; ``name``, ``task`` and ``split``.

    Raises:
        SegkdError: there is nothing to measure, or no such device.
    """
    if Path(target).is_dir():
        run = Run(target)
        config = run.config(overrides)
    else:
        check_named(target)
        config = load_config(target, overrides, build=False)
        run = Run.of(config)
    dataset_of(config)
    # They load torch: a wrong key is told without waiting for that.
    from segkd.common.devices import find_device
    from segkd.training.measure import device_of, measure
    from segkd.training.teacher import TeachersOf, teacher_configs

    place = device_of(config) if device is None else find_device(device)
    task = task_of(config)
    about = {"name": config.name, "task": config.task, "split": config.data.val_split, "classes": task.class_names}
    configs, measured = teacher_configs(config), {}
    if all(Run.of(own).finished for own in configs.values()):
        teachers = TeachersOf(task, configs)
        teachers.load(to_measure=True)
        for name, network in teachers.predicting.items():
            measured[name] = measure(task, network, name, place, console)
    result: dict[str, Any] = about | (measured if config.teachers is None else {"teachers": measured})
    if run.student.is_dir():
        result["student"] = measure(task, task.load_student(run.student), "student", place, console)
    elif config.student.checkpoint is not None:
        result["student"] = measure(task, task.student(), "student", place, console)
    if not measured and "student" not in result:
        raise SegkdError(f"{target}: nothing to measure: no finished run {run.directory}, and no checkpoint is named")
    return result
