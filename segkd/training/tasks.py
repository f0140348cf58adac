"""Which task a config, or a data set, is of."""

from pathlib import Path
from typing import TYPE_CHECKING

from segkd.common.yaml_file import read_yaml
from segkd.data.description import MAX_VALUES, BaseSpec
from segkd.errors import SegkdError
from segkd.resources import resource_dir
from segkd.training.detection.schema import Config as DetectionConfig
from segkd.training.schema import Config
from segkd.training.segmentation.schema import Config as SegmentationConfig

if TYPE_CHECKING:
    from rich.console import Console

    from segkd.data.check import DatasetReport
    from segkd.training.task import Task

# Imports are on first use: each task loads what it alone needs, and a description of data none of it.


def task_of(config: Config) -> "Task":
    """Return the task of a config."""
    if isinstance(config, SegmentationConfig):
        from segkd.training.segmentation.task import SegmentationTask

        return SegmentationTask(config)
    from segkd.training.detection.task import DetectionTask

    assert isinstance(config, DetectionConfig)
    return DetectionTask(config)


def dataset_of(config: Config) -> BaseSpec:
    """Return the description of a config's data set.

    Raises:
        SegkdError: it cannot be read.
    """
    spec = read_dataset(config.data.dataset, is_detection=isinstance(config, DetectionConfig))
    return spec.limited(config.data.max_pixels)


def read_dataset(name_or_path: str, is_detection: bool) -> BaseSpec:
    """Return the description of a data set of either task, see `segkd.data.description.read_spec`."""
    if is_detection:
        from segkd.detection.datasets import load_detection_spec

        return load_detection_spec(name_or_path)
    from segkd.segmentation.datasets import load_dataset_spec

    return load_dataset_spec(name_or_path)


def bare_dataset(name: str) -> BaseSpec | None:
    """Return the data set that a file describes, or a shipped one by name; None where it is a config, or nothing.

    Raises:
        SegkdError: the description cannot be read.
    """
    path = Path(name)
    if not path.is_file():
        path = resource_dir("datasets") / f"{path.name}.yaml"
        if path.stem != name or not path.is_file():
            return None
    try:
        content = read_yaml(path, MAX_VALUES)
    except SegkdError:
        return None  # read as a config, it is told what is wrong with it
    if not isinstance(content, dict) or "splits" not in content:
        return None
    return read_dataset(str(path), is_detection="format" in content)


def check_dataset(dataset: BaseSpec, root: str | None, console: "Console") -> "DatasetReport":
    """Read a whole data set of either task and report what is wrong; see the tasks' own functions of this name."""
    from segkd.segmentation.datasets import DatasetSpec

    if isinstance(dataset, DatasetSpec):
        from segkd.segmentation import check as segmentation

        return segmentation.check_dataset(dataset, root, console)
    from segkd.detection import check as detection
    from segkd.detection.datasets import DetectionSpec

    assert isinstance(dataset, DetectionSpec)
    return detection.check_dataset(dataset, root, console)
