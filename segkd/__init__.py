"""Knowledge distillation for dense prediction: a large teacher teaches a small student.

``Distiller``, ``Term`` and the losses need torch alone; ``load_student`` opens what a run saved;
``train``, ``compare``, ``tune``, ``evaluate``, ``predict`` and ``export`` do what the commands do.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segkd.api import compare, evaluate, export, predict, train, tune
    from segkd.distiller import Distiller, DistillOutput
    from segkd.term import Term
    from segkd.training.opening import load_student

__version__ = "0.2.0"
__all__ = [
    "DistillOutput",
    "Distiller",
    "Term",
    "compare",
    "evaluate",
    "export",
    "load_student",
    "predict",
    "train",
    "tune",
]

# Imported on first use: torch takes two seconds, which `segkd --help` need not wait for.
_PLACES = {
    "DistillOutput": "segkd.distiller",
    "Distiller": "segkd.distiller",
    "Term": "segkd.term",
    "load_student": "segkd.training.opening",
    **dict.fromkeys(("compare", "evaluate", "export", "predict", "train", "tune"), "segkd.api"),
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'segkd' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
