"""Knowledge distillation for dense prediction: a large teacher teaches a small student.

``Distiller``, ``Term`` and the losses need torch alone; ``load_student`` opens what a run saved.
"""

from typing import TYPE_CHECKING, Any

from segkd.distiller import Distiller, DistillOutput
from segkd.term import Term

if TYPE_CHECKING:
    from segkd.students import load_student

__version__ = "0.1.0"
__all__ = ["DistillOutput", "Distiller", "Term", "load_student"]


def __getattr__(name: str) -> Any:
    # Imported on first use: it needs segmentation_models_pytorch or torchvision, the core does not.
    if name == "load_student":
        from segkd.students import load_student

        return load_student
    raise AttributeError(f"module 'segkd' has no attribute {name!r}")
