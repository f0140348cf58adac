"""Where a teacher comes from: its finished run, a run made now, or weights; and whether it fits its student."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from segkd.common.plain import written
from segkd.common.student import CONFIG_FILE, STUDENT_FILE, student_dir
from segkd.common.weights import WEIGHT_SUFFIXES
from segkd.errors import SegkdError
from segkd.training.config import find_config, load_config, same_dataset
from segkd.training.run import Run, changed_keys
from segkd.training.schema import Config, Teacher


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
        found = find_config(block.config)
    except SegkdError as error:
        raise SegkdError(f"{config.name}: teacher.config: {error}") from None
    run = Run(found.parent)
    if found.name == run.config_file.name and (run.last.parent.is_dir() or run.student.is_dir()):
        # The config that a run keeps names that run, wherever it was moved to.
        own = load_config(block.config, changes=block.overrides, build=False)
        own = own.model_copy(update={"runs": str(found.parent.parent), "name": found.parent.name})
    else:
        own = load_config(block.config, changes={"runs": config.runs, **block.overrides}, build=False)
    pupils = (*pupils, Run.of(config).directory)
    if Run.of(own).directory in pupils:
        raise SegkdError(f"{config.name}: teacher.config: {block.config} is its own teacher ({Run.of(own).directory})")
    teacher_config(own, pupils)
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


def saved_student(block: Teacher) -> Path | None:
    """Return the folder of the saved student that a teacher's checkpoint names, or None for a file of weights alone.

    It is named by a run directory, the ``student`` folder in it, or the file of weights in that.

    Raises:
        SegkdError: such a directory holds no student, or it is not said what the file's weights are of.
    """
    assert block.checkpoint is not None
    path = Path(block.checkpoint)
    if path.is_dir() or (not path.exists() and path.suffix not in WEIGHT_SUFFIXES):
        return student_dir(path)
    if path.name == STUDENT_FILE and (path.parent / CONFIG_FILE).is_file():
        return path.parent
    missing = [key for key in block.of_weights if getattr(block, key) is None]
    if missing:
        raise SegkdError(
            f"teacher.{missing[0]} is missing: {path} alone does not say what its weights are of; a run directory as "
            "teacher.checkpoint does"
        )
    return None


def check_said(block: Teacher, held: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Raise a SegkdError where a config says of a teacher what its saved student says otherwise.

    Args:
        block: the config's teacher block.
        held: what the saved student says, by the keys of the block: arch, encoder and such, normalization as a pair.
        options: the arguments of its architecture.
    """
    normalization = block.normalization and [list(block.normalization.mean), list(block.normalization.std)]
    said = {**{key: getattr(block, key) for key in held}, "normalization": normalization}
    pairs = {key: (said[key], value) for key, value in held.items() if said[key] is not None}
    pairs |= {f"options.{key}": (value, options.get(key)) for key, value in block.options.items()}
    for key, (given, there) in pairs.items():
        if _comparable(given) != _comparable(there):
            raise SegkdError(
                f"teacher.{key}: {block.checkpoint} has {written(there)}, not {written(given)}: leave teacher.{key} "
                "out, the checkpoint says it"
            )


def check_classes(what: str, theirs: Sequence[str], ours: Sequence[str], way_out: str) -> None:
    """Raise a SegkdError that shows both lists unless a teacher's classes are the student's, in their order."""
    if list(theirs) == list(ours):
        return
    place = next((n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    raise SegkdError(
        f"{what} has {len(theirs)} classes {_listed(theirs)}, the student {len(ours)} {_listed(ours)}; the first that "
        f"differs is number {place}: {way_out}"
    )


def _listed(names: Sequence[str]) -> str:
    return f"[{', '.join(names[:25])}{', ...' if len(names) > 25 else ''}]"


def _comparable(value: Any) -> Any:
    if isinstance(value, str):
        return value.lower()
    return [_comparable(inner) for inner in value] if isinstance(value, list | tuple) else value
