"""Opening a saved student of either task."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segkd.common.student import CONFIG_FILE, INFO_KEY, student_dir

if TYPE_CHECKING:
    from segkd.detection.student import DetectionStudent
    from segkd.segmentation.student import Student


def load_student(path: str | Path) -> "Student | DetectionStudent":
    """Open a student: a run directory, or the ``student`` folder in it.

    Raises:
        SegkdError: there is no student, or its files are unreadable or do not belong together.
    """
    folder = student_dir(path)
    try:
        description: Any = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        task = description[INFO_KEY]["task"]
    except (OSError, ValueError, KeyError, TypeError):
        task = "segmentation"  # which says in one line what is wrong with the file
    if task == "detection":
        from segkd.detection.student import load_student as load_detector

        return load_detector(folder)
    from segkd.segmentation.student import load_student as load_segmenter

    return load_segmenter(folder)
