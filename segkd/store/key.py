"""The key of a store: a digest of all that its outputs depend on, so that any change leads to another store."""

import contextlib
import hashlib
import inspect
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segkd.errors import SegkdError

FORMAT = 3
"""Version of a store's files, which is part of its key."""
_LIBRARIES = ("segkd", "torch", "torchvision", "segmentation-models-pytorch", "timm", "transformers", "albumentations")
_MODULES = tuple(name.replace("-", "_") for name in _LIBRARIES)


def key(parts: Mapping[str, Any]) -> str:
    """Return the key of these parts, 20 hexadecimal digits.

    Args:
        parts: JSON values.
    """
    text = json.dumps({"format": FORMAT, **parts}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


def of_module(module: nn.Module) -> str:
    """Return a digest of what a module computes: its layers, their settings, parameters and buffers, and own code.

    Settings are attributes that are plain values, which a ``repr`` need not show; paths are left out. Own code are the
    files that its layers' classes are written in, unless these are a library's, whose version counts (`of_libraries`).
    """
    digest = hashlib.blake2b(repr(module).encode(), digest_size=16)
    for name, part in module.named_modules():
        digest.update(f"{name} {_settings(part)}".encode())
    for file in sorted({file for part in module.modules() if (file := _own_code(type(part))) is not None}):
        digest.update(file.read_bytes())
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        raw = value.detach().cpu().contiguous().flatten()
        digest.update(memoryview(raw.view(torch.uint8).numpy()))
    return digest.hexdigest()


def _settings(module: nn.Module) -> dict[str, Any]:
    public = {name: value for name, value in sorted(vars(module).items()) if not name.startswith("_")}
    return {name: value for name, value in public.items() if name != "training" and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str | None) and not (isinstance(value, str) and os.path.isabs(value))


def _own_code(kind: type) -> Path | None:
    """Return the file that a class is written in, None if it is a library's or has none."""
    library = kind.__module__.partition(".")[0]
    if library in _MODULES:
        return None
    with contextlib.suppress(OSError, TypeError):
        return Path(inspect.getfile(kind))
    return None


def of_files(paths: Iterable[Path], root: Path) -> str:
    """Return a digest of files in their order: of each one's path relative to ``root`` and of its content.

    Raises:
        SegkdError: one cannot be read.
    """
    paths = list(paths)
    digest = hashlib.blake2b(digest_size=16)
    with ThreadPoolExecutor() as pool:  # hashing and reading let other threads run
        for path, content in zip(paths, pool.map(_content, paths), strict=True):
            digest.update(f"{os.path.relpath(path, root)}\0{content}\n".encode())
    return digest.hexdigest()


def of_libraries() -> dict[str, str]:
    """Return the versions of the libraries that a teacher's outputs and an image's views depend on."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _content(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError as error:
        raise SegkdError(f"{path} cannot be read: {error.strerror}") from None
