"""A run's result as the rows that a person reads."""

from collections.abc import Iterator
from typing import Any

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
