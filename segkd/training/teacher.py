"""Where a teacher with a config of its own comes from: its finished run, or a run made now."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from segkd.errors import SegkdError
from segkd.training.config import find_config, load_config, same_dataset
from segkd.training.run import Run, changed_keys
from segkd.training.schema import Config


def teacher_config(config: Config, pupils: tuple[Path, ...] = ()) -> Config | None:
    """Return the config that trains this config's teacher, or None when it names weights instead.

    Args:
        config: the student's.
        pupils: the run directories of those that this student is to teach.

    Raises:
        SegkdError: that config is not there or cannot be read, or names a teacher that is its own pupil.
    """
    block = config.teacher
    if block is None or block.config is None:
        return None
    try:
        find_config(block.config)
    except SegkdError as error:
        raise SegkdError(f"{config.name}: teacher.config: {error}") from None
    own = load_config(block.config, changes={"runs": config.runs, **block.overrides})
    pupils = (*pupils, Run.of(config).directory)
    if Run.of(own).directory in pupils:
        raise SegkdError(f"{config.name}: teacher.config: {block.config} is its own teacher ({Run.of(own).directory})")
    teacher_config(own, pupils)
    if config.data.root is not None and own.data.root is None and same_dataset(own.data.dataset, config.data.dataset):
        own = own.model_copy(update={"data": own.data.model_copy(update={"root": config.data.root})})
    return own


def finished_run(own: Config, train: Callable[[Run | None], Any]) -> None:
    """Train the teacher first, or to its end, where there is no finished run of it.

    Args:
        own: the teacher's config.
        train: called with the run to go on with, if one was begun.

    Raises:
        SegkdError: the run directory holds a run of another config.
    """
    run = Run.of(own)
    if run.config_file.is_file():
        changed = changed_keys(own, run.config())
        if changed:
            raise SegkdError(
                f"the teacher's run {run.directory} was made with another {', '.join(changed[:3])}: give it another "
                "name (teacher.overrides.name=...), or remove that run"
            )
        if not run.finished:
            train(run)
    else:
        train(None)
