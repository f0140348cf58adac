"""Which task a config, or a data set, is of."""

from pathlib import Path
from typing import TYPE_CHECKING

from segkd.common.yaml_file import read_yaml
from segkd.data.description import MAX_VALUES, DatasetSpec, read_spec
from segkd.errors import SegkdError
from segkd.resources import resource_dir
from segkd.training.families import task_type
from segkd.training.schema import Config

if TYPE_CHECKING:
    from segkd.training.task import Task


def task_of(config: Config) -> "Task":
    """Return the task of a config."""
    return task_type(config.task)(config)


def dataset_of(config: Config) -> DatasetSpec:
    """Return the description of a config's data set.

    Raises:
        SegkdError: it cannot be read.
    """
    return task_type(config.task).read_dataset(config.data.dataset).limited(config.data.max_pixels)


def bare_dataset(name: str) -> DatasetSpec | None:
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
    return read_spec(path)
