"""A run's result: its measures as rows of a table, the environment that it was made in, and its file."""

import contextlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkd import registry
from segkd.common.files import write_text
from segkd.errors import DiskFull, SegkdError
from segkd.training.tasks import task_type

if TYPE_CHECKING:
    from segkd.training.measure import Measure

_OURS = ("segkd", "torch", "torchvision", "pytorch-lightning", "segmentation-models-pytorch", "timm", "albumentations")


def measures_of(result: Mapping[str, Any]) -> "tuple[Measure, ...]":
    """Return the measures of a result's task, the score first; raises a SegkdError where it has none of any task."""
    if "task" in result:
        return task_type(result["task"]).measures
    # Version 0.1 did not write the task.
    for name in registry.things("task"):
        measures = task_type(name).measures
        if any(measures[0].key in measured for measured in models_of(result).values()):
            return measures
    raise SegkdError("it has no metrics of any task")


def models_of(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what was measured of each model, by name: the teachers in their order, then the student."""
    teachers = result.get("teachers") or {"teacher": result.get("teacher")}
    return {name: found for name, found in {**teachers, "student": result.get("student")}.items() if found}


def rows(result: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield a label and the value of each of `models_of`: the means, then each class."""
    models, measures = list(models_of(result).values()), measures_of(result)
    for measure in measures:
        if not measure.of_classes and measure.key in models[0]:
            yield measure.heading, [measure.shown(model[measure.key]) for model in models]
    for measure in [measure for measure in measures if measure.of_classes][:1]:
        for index, name in enumerate(result["classes"]):
            yield f"  {name}", [measure.shown(model[measure.key][index]) for model in models]


def environment() -> dict[str, Any]:
    """Return versions of what a result depends on, and the hardware: ``gpu`` is None where there is none."""
    import torch

    versions: dict[str, Any] = dict.fromkeys(_OURS)
    for name in _OURS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    cpu = platform.processor() or platform.machine()
    # As the system calls it: Python's own answer is empty on many a Linux.
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    return {
        "python": platform.python_version(),
        **versions,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def check_writable(path: Path) -> None:
    """Raise `SegkdError` unless a file can be written here: checked before hours are spent on its content."""
    if path.is_dir() or not path.parent.is_dir():
        raise SegkdError(f"{path} cannot be written: there is no folder {path.parent}, or it is a folder itself")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, with null in place of NaN."""

    def without_nan(node: Any) -> Any:
        if isinstance(node, Mapping):
            return {key: without_nan(value) for key, value in node.items()}
        if isinstance(node, list):
            return [without_nan(value) for value in node]
        return None if node != node else node

    try:
        write_text(path, json.dumps(without_nan(content), indent=2) + "\n")
    except DiskFull:
        raise
    except OSError as error:
        raise SegkdError(f"{path} cannot be written: {error.strerror}") from None
