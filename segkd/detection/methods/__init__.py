"""Methods on detectors' maps, heads and boxes, one file each; see `DetectionAdapter.prepare` for what one may say.

Of `segkd.losses` those are found here too, such as `PKD`: they read the FPN maps.
"""

import importlib
import pkgutil
from typing import Any

from torch import nn

from segkd import losses


def __getattr__(name: str) -> Any:
    """Return the method of this name from whichever file of this folder has it, or the loss."""
    if not name[:1].isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for _, file, _ in pkgutil.iter_modules(__path__):
        found = getattr(importlib.import_module(f"{__name__}.{file}"), name, None)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found
    return getattr(losses, name)


def __dir__() -> list[str]:
    """Return the methods and the files' names too, and the losses; for this all files are read."""
    found = {*globals(), *(name for name in dir(losses) if name[:1].isupper())}
    for _, file, _ in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{file}")
        methods = (value for value in vars(module).values() if isinstance(value, type) and issubclass(value, nn.Module))
        found |= {file, *(method.__name__ for method in methods if method.__module__ == module.__name__)}
    return sorted(found)
