"""Distillation losses: a module each, called ``loss(student, teacher, target=None)``, one file each.

The two on rows of a detection head, `quality_focal_kd` and `distribution_kl`, are functions: their weights and
normalisers change with every batch. The names of the files are modules: `segkd.losses.icsd.inter_class_similarity`.
"""

import importlib
import pkgutil
from typing import Any

from segkd.losses.base import Loss
from segkd.losses.cwd import CWD
from segkd.losses.distributions import distribution_kl
from segkd.losses.icsd import ICSD, inter_class_similarity
from segkd.losses.pixel_kd import PixelKD
from segkd.losses.pkd import PKD
from segkd.losses.quality_focal import quality_focal_kd

__all__ = ["CWD", "ICSD", "PKD", "Loss", "PixelKD", "distribution_kl", "inter_class_similarity", "quality_focal_kd"]


def __getattr__(name: str) -> Any:
    """Return the file of this name, or the loss, from whichever file here has it: none need be listed above."""
    if not name.startswith("_"):
        files = [file for _, file, _ in pkgutil.iter_modules(__path__)]
        if name in files:
            return importlib.import_module(f"{__name__}.{name}")
        for file in files:
            found = None if file.startswith("_") else getattr(importlib.import_module(f"{__name__}.{file}"), name, None)
            if isinstance(found, type) and issubclass(found, Loss):
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the losses and the files' names too, wherever they are; for this all files are read."""
    found = set(globals())
    for file in (file for _, file, _ in pkgutil.iter_modules(__path__) if not file.startswith("_")):
        module = importlib.import_module(f"{__name__}.{file}")
        found |= {file, *(name for name, value in vars(module).items() if _is_loss(value) and not name.startswith("_"))}
    return sorted(found)


def _is_loss(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Loss) and hasattr(value, "name")
