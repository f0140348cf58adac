"""The formats that labels are written in, one file each, found by the name of the file."""

from typing import Any

from segkd import registry
from segkd.common.plain import written
from segkd.errors import SegkdError, nearest


def find_format(name: Any, base: type[Any], own_code: bool = False) -> type[Any]:
    """Return the class of a format here; or of one's own that derives from ``base``, where ``own_code`` allows that."""
    names = list(registry.things("format"))
    is_own = isinstance(name, str) and ":" in name
    if is_own and not own_code:
        rule = "which a data set may do only where a config names it, as data.dataset"
        raise SegkdError(f"format: {written(name)} names code, {rule}")
    if not is_own and name not in names:
        hint = nearest(name, names)
        hint = f" ({hint})" if hint.startswith("did you mean") else ""
        listed = ", ".join(map(repr, names[:-1]))
        raise SegkdError(f"format: expected {listed} or {names[-1]!r}{hint}, got {written(name)}")
    found = registry.find("format", name)
    if not isinstance(found, type) or not issubclass(found, base):
        raise SegkdError(f"format: {written(name)} is no class that derives from {base.__module__}.{base.__name__}")
    return found
