"""Which task a config is of."""

from segkd.training.detection.schema import Config as DetectionConfig
from segkd.training.schema import Config
from segkd.training.segmentation.schema import Config as SegmentationConfig
from segkd.training.task import Task


def task_of(config: Config) -> Task:
    """Return the task of a config."""
    # On first use: each task imports what it alone needs.
    if isinstance(config, SegmentationConfig):
        from segkd.training.segmentation.task import SegmentationTask

        return SegmentationTask(config)
    from segkd.training.detection.task import DetectionTask

    assert isinstance(config, DetectionConfig)
    return DetectionTask(config)
