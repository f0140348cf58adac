"""A run's result as the rows that a person reads."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkd import registry
from segkd.common.files import write_text
from segkd.errors import DiskFull, SegkdError
from segkd.training.tasks import task_type

if TYPE_CHECKING:
    from segkd.training.measure import Measure


def measures_of(result: Mapping[str, Any]) -> "tuple[Measure, ...]":
    """Return what a result's task measures, the score first.

    Raises:
        SegkdError: it has none of the measures of a task.
    """
    if "task" in result:
        return task_type(result["task"]).measures
    # As version 0.1 wrote it.
    for name in registry.things("task"):
        measures = task_type(name).measures
        if any(measures[0].key in measured for measured in models_of(result).values()):
            return measures
    raise SegkdError("it has no metrics of any task")


def models_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what was measured of each model by its name: the teachers in their order, then the student."""
    teachers = result.get("teachers") or {"teacher": result.get("teacher")}
    return {name: found for name, found in {**teachers, "student": result.get("student")}.items() if found}


def rows(result: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield a label and the value of each of `models_of`: the means, then each class.

    Args:
        result: what `segkd.training.train.train` or `segkd.training.evaluate.evaluate` returned.
    """
    models, measures = list(models_of(result).values()), measures_of(result)
    for measure in measures:
        if not measure.of_classes and measure.key in models[0]:
            yield measure.heading, [measure.shown(model[measure.key]) for model in models]
    of_classes = next((measure for measure in measures if measure.of_classes), None)
    for index, name in enumerate(result["classes"] if of_classes else ()):
        assert of_classes is not None
        yield f"  {name}", [of_classes.shown(model[of_classes.key][index]) for model in models]


def check_writable(path: Path) -> None:
    """Raise `SegkdError` unless a file can be written here: known before hours are spent on what goes into it."""
    if path.is_dir() or not path.parent.is_dir():
        raise SegkdError(f"{path} cannot be written: there is no folder {path.parent}, or it is a folder itself")


def write_json(path: Path, content: Any) -> None:
    """Write a file that programs read; what is not a number stands there as null.

    Raises:
        SegkdError: it cannot be written.
        DiskFull: there is no room for it.
    """
    try:
        write_text(path, json.dumps(without_nan(content), indent=2) + "\n")
    except DiskFull:
        raise
    except OSError as error:
        raise SegkdError(f"{path} cannot be written: {error.strerror}") from None


def without_nan(node: Any) -> Any:
    """Return nested mappings and lists with None for each value that is not a number."""
    if isinstance(node, dict):
        return {key: without_nan(value) for key, value in node.items()}
    if isinstance(node, list):
        return [without_nan(value) for value in node]
    return None if node != node else node
