"""Which task a config is of."""

from typing import TYPE_CHECKING

from segkd.common.specs import BaseSpec
from segkd.training.detection.schema import Config as DetectionConfig
from segkd.training.schema import Config
from segkd.training.segmentation.schema import Config as SegmentationConfig

if TYPE_CHECKING:
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
    if isinstance(config, SegmentationConfig):
        from segkd.segmentation.datasets import load_dataset_spec

        return load_dataset_spec(config.data.dataset)
    from segkd.detection.datasets import load_detection_spec

    return load_detection_spec(config.data.dataset)
