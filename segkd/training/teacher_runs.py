"""The runs that train teachers: which configs they have, and that each is finished before its student begins."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from segkd.errors import SegkdError
from segkd.training.config import find_config, load_config, same_dataset
from segkd.training.run import Run, changed_keys
from segkd.training.schema import Config, TeacherBlock


def teacher_configs(config: Config, pupils: tuple[Path, ...] = ()) -> dict[str, Config]:
    """Return by name the configs that train teachers of this config; a teacher that is named by weights has none.

    Args:
        config: the student's.
        pupils: the run directories of those that this student is to teach.

    Raises:
        SegkdError: such a config is not there or cannot be read, or names a teacher that is its own pupil.
    """
    pupils = (*pupils, Run.of(config).directory)
    return {
        name: _teacher_config(config, key_of(config, name), block, pupils)
        for name, block in config.named_teachers().items()
        if isinstance(block, TeacherBlock) and block.config is not None
    }


def key_of(config: Config, name: str) -> str:
    """Return where a config names a teacher."""
    return name if config.teachers is None else f"teachers.{name}"


def _teacher_config(config: Config, key: str, block: TeacherBlock, pupils: tuple[Path, ...]) -> Config:
    assert block.config is not None
    try:
        found = find_config(block.config)
    except SegkdError as error:
        raise SegkdError(f"{config.name}: {key}.config: {error}") from None
    run = Run(found.parent)
    if found.name == run.config_file.name and (run.last.parent.is_dir() or run.student.is_dir()):
        # The config that a run keeps names that run, wherever it was moved to.
        own = load_config(block.config, changes=block.overrides, build=False)
        own = own.model_copy(update={"runs": str(found.parent.parent), "name": found.parent.name})
    else:
        own = load_config(block.config, changes={"runs": config.runs, **block.overrides}, build=False)
    if Run.of(own).directory in pupils:
        raise SegkdError(f"{config.name}: {key}.config: {block.config} is its own teacher ({Run.of(own).directory})")
    if own.task != config.task:
        raise SegkdError(f"{config.name}: {key}.config: {own.name} is no {config.task} config")
    teacher_configs(own, pupils)
    if config.data.root is not None and own.data.root is None and same_dataset(own.data.dataset, config.data.dataset):
        own = own.model_copy(update={"data": own.data.model_copy(update={"root": config.data.root})})
    return own


def finished_run(
    own: Config, train: Callable[[Run | None], Any], lock: Callable[[Run], AbstractContextManager[None]]
) -> None:
    """Train the teacher first, or to its end, where there is no finished run of it.

    Args:
        own: the teacher's config.
        train: called with the run to go on with, if one was begun.
        lock: keeps other processes from the run until it is finished, and waits for one that has it.

    Raises:
        SegkdError: the run directory holds a run of another config.
    """
    run = Run.of(own)
    if _is_begun(run, own) and run.finished:  # it may lie where nothing can be written, so not even the lock
        return
    with lock(run):
        # Asked again: another process may have made it meanwhile, or ended in the middle of it.
        begun = _is_begun(run, own)
        if not (begun and run.finished):
            train(run if begun else None)


def _is_begun(run: Run, own: Config) -> bool:
    """Whether there is a run of this config; raises a SegkdError where it is one of another."""
    if not run.config_file.is_file():
        return False
    changed = changed_keys(own, run.config().model_copy(update={"name": own.name}))
    if changed:
        raise SegkdError(
            f"the teacher's run {run.directory} was made with another {', '.join(changed[:3])}: give it another "
            "name (teacher.overrides.name=...), or remove that run"
        )
    return True
