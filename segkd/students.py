"""Opening a saved student of either task."""

from pathlib import Path
from typing import TYPE_CHECKING

from segkd.common.description import read_description
from segkd.common.student import CONFIG_FILE, INFO_KEY, student_dir

if TYPE_CHECKING:
    from segkd.detection.student import DetectionStudent
    from segkd.segmentation.student import Student


def load_student(path: str | Path) -> "Student | DetectionStudent":
    """Open a student: a run directory, or the ``student`` folder in it.

    Folders of strangers may be opened: nothing in one can name code to run or a place to fetch something from.

    Raises:
        SegkdError: there is no student, its files are unreadable or do not belong together, or a value in them is
            none that a student has.
    """
    folder = student_dir(path)
    try:
        task = read_description(folder / CONFIG_FILE)[INFO_KEY]["task"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        task = "segmentation"  # which says in one line what is wrong with the file
    if task == "detection":
        from segkd.detection.student import load_student as load_detector

        return load_detector(folder)
    from segkd.segmentation.student import load_student as load_segmenter

    return load_segmenter(folder)
