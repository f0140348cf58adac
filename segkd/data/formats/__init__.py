"""The formats that labels are written in, one file each, found by the name of the file."""

import importlib
from pathlib import Path
from typing import Any

from segkd import registry
from segkd.common.plain import written
from segkd.errors import SegkdError, nearest


def format_names() -> list[str]:
    """Return the names of the formats."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))


def find_format(name: Any, base: type[Any], own_code: bool = False) -> type[Any]:
    """Return the class of a format here; or of one's own that derives from ``base``, where ``own_code`` allows that."""
    if isinstance(name, str) and ":" in name:
        if not own_code:
            rule = "which a data set may do only where a config names it, as data.dataset"
            raise SegkdError(f"format: {written(name)} names code, {rule}")
        found = registry.find("format", name)
        if not isinstance(found, type) or not issubclass(found, base):
            raise SegkdError(f"format: {written(name)} is no class that derives from {base.__module__}.{base.__name__}")
        return found
    names = format_names()
    if name not in names:
        hint = nearest(name, names)
        hint = f" ({hint})" if hint.startswith("did you mean") else ""
        listed = ", ".join(map(repr, names[:-1]))
        raise SegkdError(f"format: expected {listed} or {names[-1]!r}{hint}, got {written(name)}")
    module = importlib.import_module(f"segkd.data.formats.{name}")
    classes = (item for item in vars(module).values() if isinstance(item, type) and item.__module__ == module.__name__)
    return next(item for item in classes if "title" in vars(item))
