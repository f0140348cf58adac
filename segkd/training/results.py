"""A run's result as the rows that a person reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segkd.common.files import write_text
from segkd.errors import DiskFull, SegkdError

LABELS = {
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "class_accuracy": "class accuracy",
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
}
"""The measures by name, in the order in which they are shown; the first that a result has is its score."""

OF_CLASSES = ("iou", "class_ap")
"""The measures that have one value for each class."""


def rows(result: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yield a label and the values in per cent of teacher, where there is one, and student: the means, then each class.

    Args:
        result: what `segkd.training.train.train` or `segkd.training.evaluate.evaluate` returned.
    """
    models = [result[name] for name in models_of(result)]
    for key, label in LABELS.items():
        if key in models[0]:
            yield label, [percent(model[key]) for model in models]
    key = next(key for key in OF_CLASSES if key in models[0])
    for index, name in enumerate(result["classes"]):
        yield f"  {name}", [percent(model[key][index]) for model in models]


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


def models_of(result: dict[str, Any]) -> list[str]:
    """Return which of teacher and student a result has measured."""
    return [name for name in ("teacher", "student") if result.get(name)]


def score(measured: dict[str, Any]) -> tuple[str, str]:
    """Return the label and the value in per cent of what counts most."""
    key = next(key for key in LABELS if key in measured)
    return LABELS[key], percent(measured[key])


def percent(value: float | None) -> str:
    """Return a share in per cent, or a dash where nothing was measured."""
    return "-" if value is None or value != value else f"{100 * value:.2f}"
