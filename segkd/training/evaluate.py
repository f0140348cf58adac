"""Measuring the models of a run or a config on the validation split, outside of training."""

from pathlib import Path
from typing import Any

from segkd.errors import SegkdError
from segkd.training.config import load_config
from segkd.training.run import Run
from segkd.training.tasks import dataset_of, task_of
from segkd.training.teacher import teacher_config


def evaluate(target: str, overrides: list[str]) -> dict[str, Any]:
    """Measure the models of a run directory or a config.

    Args:
        target: a run directory, or a config: its teacher, and its student where a run of it or a checkpoint exists.
        overrides: ``key.path=value`` changes to the config.

    Returns:
        ``classes``, and for each of ``teacher`` and ``student`` that exists what was measured; ``name`` and ``split``.

    Raises:
        SegkdError: there is nothing to measure.
    """
    if Path(target).is_dir():
        run = Run(target)
        config = run.config(overrides)
    else:
        config = load_config(target, overrides)
        run = Run.of(config)
    dataset_of(config)
    from segkd.training.task import measure  # it loads torch: a wrong key is told without waiting for that

    task = task_of(config)
    result: dict[str, Any] = {"name": config.name, "split": config.data.val_split, "classes": task.class_names}
    own = teacher_config(config)
    if config.teacher is not None and (own is None or Run.of(own).finished):
        teacher = task.teacher(own)
        task.load_teacher(teacher, to_measure=True)
        result["teacher"] = measure(task, teacher.model, teacher)
    if run.student.is_dir():
        result["student"] = measure(task, task.load_student(run.student))
    elif config.student.checkpoint is not None:
        result["student"] = measure(task, task.student())
    if "teacher" not in result and "student" not in result:
        raise SegkdError(f"{target}: nothing to measure: no finished run {run.directory}, and no checkpoint is named")
    return result
