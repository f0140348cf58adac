"""A saved student's config.json, checked as what a stranger may have written before anything is built of it."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from torch.overrides import TorchFunctionMode

from segkd.common.paths import check_regular
from segkd.common.plain import complaint, written
from segkd.common.values import Above0, Pixels, fits_memory
from segkd.errors import SegkdError, nearest

# A description of 6,000 classes with their colours has an eighth of this.
_MAX_BYTES = 2**22
# Values that a network may need beside what its file holds: the classifier that VGG is built with and loses has 123 M.
_SPARE_VALUES = 2**28


def _is_modest(value: Any, depth: int = 2, most: int = 32) -> Any:
    """Raise ValueError unless a setting is no more than any network needs; a block holds plain values alone."""
    items = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    if isinstance(value, int | float) and abs(value) > 2**24:
        raise ValueError(f"expected a number up to {2**24}, got {written(value)}")
    if isinstance(value, str) and len(value) > 200:
        raise ValueError(f"expected at most 200 characters, got {written(value)}")
    if len(items) > most or (items and not depth):
        raise ValueError(f"expected a plain setting, got {written(value)}")
    for inner in items:
        _is_modest(inner, depth - 1, most)
    return value


def setting(kind: Any) -> Any:
    """Return a type of key that also bounds its value: what it sizes must fit a machine."""
    return Annotated[kind, AfterValidator(_is_modest)]


def _is_name(text: str) -> str:
    # timm takes a name with a prefix such as `hf-hub:` or `local-dir:` for a place to fetch a network from.
    if not re.fullmatch(r"[\w.+-]+", text):
        raise ValueError(f"expected the name of a network, and no place to fetch one from, got {written(text)}")
    return text


def check_plain(key: str, value: Any) -> None:
    """Raise `SegkdError` unless a value is plain: a name, a number, or a block of such as a network's settings are."""
    try:
        _is_modest(_is_name(value) if isinstance(value, str) else value, depth=6, most=4096)
    except ValueError as error:
        raise SegkdError(f"{key}: {error}") from None


Text = Annotated[str, Field(max_length=200)]
NetworkName = Annotated[str, Field(max_length=200), AfterValidator(_is_name)]
NumClasses = Annotated[int, Field(ge=1, le=2**16)]
_Size = Annotated[list[Pixels], Field(min_length=2, max_length=2), AfterValidator(fits_memory)]
_Byte = Annotated[int, Field(ge=0, le=255)]

# Of what is recorded beside the model. Other keys are let through: nothing is built of them.
_INFO: dict[str, Any] = {
    "classes": list[str],
    "colors": list[Annotated[list[_Byte], Field(min_length=3, max_length=3)]],
    "ignore_index": _Byte | None,
    "mean": Annotated[list[float], Field(min_length=1, max_length=64)],
    "std": Annotated[list[Above0], Field(min_length=1, max_length=64)],
    "white": Above0,
    "size": _Size | None,
    "window": Pixels | _Size | None,
}


def read_description(file: Path) -> dict[str, Any]:
    """Return what a ``config.json`` holds, or raise ValueError or OSError; what its keys mean is for `check_keys`."""
    check_regular(file, "it")
    if not file.exists():
        raise SegkdError("there is no such file")
    if file.stat().st_size > _MAX_BYTES:
        raise SegkdError(f"it is larger than {_MAX_BYTES} bytes")
    content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_finite, parse_float=_finite)
    if not isinstance(content, dict):
        raise SegkdError(f"expected keys and values, got {written(content)}")
    return content


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise SegkdError(f"expected finite numbers, got {text[:20]}")
    return value


def check_keys(values: Mapping[str, Any], kinds: Mapping[str, Any], required: tuple[str, ...] = ()) -> None:
    """Raise `SegkdError` unless all required keys are there, each is known, and its value is of the key's type."""
    for key in required:
        if key not in values:
            raise SegkdError(f"{key} is missing")
    for key, value in values.items():
        if key not in kinds:
            raise SegkdError(f"there is no key {written(key)}: {nearest(key[:200], kinds)}")
        check_value(key, value, kinds[key])


def check_value(key: str, value: Any, kind: Any) -> None:
    """Raise `SegkdError` unless a value, as JSON holds it, is of a type that pydantic knows: text is no number."""
    adapter: TypeAdapter[Any] = TypeAdapter(kind, config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        adapter.validate_json(json.dumps(value))
    except ValidationError as error:
        # Of the kinds that a value might have been, the one that it came nearest to.
        closest = max(error.errors(include_url=False), key=lambda found: len(found["loc"]))
        raise SegkdError(f"{key}: {complaint(closest)}") from None


def check_info(info: Any, key: str, tasks: Sequence[str], classes: int) -> dict[str, Any]:
    """Return what is recorded under a key beside a model, see `segkd.network.Network`, checked.

    Raises:
        SegkdError: a value of another type or out of its range, not as many names or colours as classes, an
            ignore_index that is a class, or none of the tasks that the model can be of.
    """
    if not isinstance(info, dict):
        raise SegkdError(f"{key}: expected keys and values, got {written(info)}")
    for name, kind in _INFO.items():
        if name in info:
            check_value(f"{key}.{name}", info[name], kind)
    if "task" in info and info["task"] not in tasks:
        raise SegkdError(f"{key}.task: expected {' or '.join(map(repr, tasks))}, got {written(info['task'])}")
    for name in ("classes", "colors"):
        if name in info and len(info[name]) != classes:
            expected = f"expected {classes}, one for each class of the model"
            raise SegkdError(f"{key}.{name}: {expected}, got {len(info[name])}")
    if (ignored := info.get("ignore_index")) is not None and ignored < classes:
        raise SegkdError(f"{key}.ignore_index: {ignored} is also one of the model's {classes} classes")
    return info


def no_larger_than(weights: Path) -> TorchFunctionMode:
    """Within this, a network that is far larger than its file of weights is a `SegkdError` before it takes memory."""
    return _Budget(weights.stat().st_size + _SPARE_VALUES, weights.name)


class _Budget(TorchFunctionMode):
    """Counts the values of new tensors: layers make their weights by these functions."""

    makers = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn)

    def __init__(self, values: int, name: str) -> None:
        super().__init__()
        self.left, self.name = values, name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # On the meta device, where libraries look at a network's shape, tensors take no memory.
        if func in self.makers and str(kwargs.get("device")) != "meta":
            sizes = args[0] if args and isinstance(args[0], list | tuple) else args
            self.left -= math.prod(size for size in sizes if isinstance(size, int))
            if self.left < 0:
                raise SegkdError(f"the network that it describes is far larger than what {self.name} holds")
        return func(*args, **kwargs)
