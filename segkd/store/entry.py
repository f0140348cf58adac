"""One entry of a store: what a teacher gave at one place for one view, as a file of tensors."""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from segkd.common.files import replacing
from segkd.errors import SegkdError
from segkd.store import Compression, Kept

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class Unreadable(Exception):
    """A file holds no whole entry, as after a power cut."""


def write_entry(
    path: Path,
    value: Any,
    kept: Kept = "auto",
    compress: Compression = "none",
    made: tuple[float, int] | None = None,
    scratch: Path | None = None,
) -> None:
    """Write one view's value at a place to a file: whole or not at all.

    Args:
        path: of the file; its folder is made.
        value: a tensor, or a list or mapping of tensors; a mapping's keys are text or whole numbers.
        kept: the type of floating-point values in the file; others keep their own.
        compress: ``zstd`` keeps every bit; it needs the package zstandard.
        made: how many seconds it took to make this view's values that were made together, and at how many places.
        scratch: a file on the same disk to write first, no other process's; unless given one beside ``path``.

    Raises:
        SegkdError: a value is too large for ``kept``, or zstandard is not installed.
    """
    keys = list(value) if isinstance(value, Mapping) else None
    tensors = list(value.values()) if keys is not None else value if isinstance(value, list) else [value]
    layout: dict[str, Any] = {"keys": keys, "is_list": isinstance(value, list), "compress": compress, "tensors": []}
    layout["made"] = made
    held: dict[str, Tensor] = {}
    for number, tensor in enumerate(tensors):
        x = tensor.detach().cpu().contiguous()
        layout["tensors"].append({"dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape)})
        if x.dtype in _FLOATS and kept == "int8" and x.numel():
            x, held[f"{number}.scale"] = _quantise(x)
        elif x.dtype in _FLOATS and kept != "auto":
            wide, x = x, x.to(getattr(torch, kept))
            if (lost := x.isinf() & wide.isfinite()).any():
                raise SegkdError(f"teacher.store.dtype: {kept} cannot hold {wide[lost][0]:.3g}; valid: auto, bfloat16")
        layout["tensors"][-1]["kept"] = str(x.dtype).removeprefix("torch.")
        held[f"{number}"] = x if compress == "none" else _compressed(x)
    layout["checksum"] = _checksum(held)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The file is not synced to disk: an entry that a power cut leaves half-written is found when it is read.
    with replacing(path, sync=False, scratch=scratch) as place:
        safetensors.torch.save_file(held, place, {"layout": json.dumps(layout)})


def read_entry(path: Path) -> Any:
    """Return what `write_entry` was given, in the types that it had.

    Raises:
        Unreadable: there is no whole entry in the file.
        FileNotFoundError: there is no such file.
        SegkdError: the entry is compressed, and zstandard is not installed.
    """
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            layout = json.loads(file.metadata()["layout"])
            held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        if _checksum(held) != layout["checksum"]:
            raise ValueError("other bytes than were written")
        tensors = [_restored(held, number, form, layout["compress"]) for number, form in enumerate(layout["tensors"])]
    except (FileNotFoundError, SegkdError):
        raise
    # A file that is cut or garbled makes safetensors, json or the shapes fail in their own ways.
    except Exception as error:
        raise Unreadable(f"{path}: {type(error).__name__}") from error
    if layout["keys"] is not None:
        return dict(zip(layout["keys"], tensors, strict=True))
    return tensors if layout["is_list"] else tensors[0]


def is_whole(path: Path) -> bool:
    """Whether a file holds a whole entry, as far as its header tells."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return "layout" in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return False


def made_in(path: Path) -> tuple[float, int] | None:
    """Return what `write_entry` was given as ``made``: seconds and number of places; None where that is unknown."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            seconds, places = json.loads(file.metadata()["layout"])["made"]
            return float(seconds), int(places)
    except (OSError, safetensors.SafetensorError, TypeError, KeyError, ValueError):
        return None


def tolerance(kept: Kept, dtype: torch.dtype) -> float:
    """Return how far a stored value may be from what the model gives anew, as a fraction of the largest value.

    Another batch size or number of threads changes the order of rounding: 100 machine epsilons are allowed for that, a
    twentieth at most. Integers, such as pixels, may differ by a hundredth.
    """
    if not dtype.is_floating_point:
        return 1 / 100
    return {"int8": 1 / 100, "float16": 1 / 500, "bfloat16": 1 / 60}.get(
        kept, min(100 * torch.finfo(dtype).eps, 1 / 20)
    )


def _checksum(held: Mapping[str, Tensor]) -> int:
    total = 0
    for name in sorted(held):
        flat = held[name].flatten()
        if flat.stride(0) != 1:  # as a single number's may be, of which there is no view as bytes
            flat = torch.empty(flat.shape, dtype=flat.dtype).copy_(flat)
        raw: Any = flat.view(torch.uint8).numpy()
        total = zlib.crc32(raw, total)
    return total


def _quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return integers in [-127, 127], and the scale of each channel, float32 (C, 1, ...)."""
    wide = x.float()
    largest = wide.abs().flatten(1).amax(1) if x.dim() > 1 else wide.abs().amax()[None]
    scale = (largest / 127).reshape(-1, *[1] * (x.dim() - 1))
    return torch.where(scale > 0, wide / scale, 0.0).round().to(torch.int8), scale


def _restored(held: dict[str, Tensor], number: int, form: dict[str, Any], compress: str) -> Tensor:
    x = held[f"{number}"]
    kept: torch.dtype = getattr(torch, form["kept"])
    if compress == "zstd":
        x = _decompressed(x, kept, form["shape"])
    if f"{number}.scale" in held:
        x = x.float() * held[f"{number}.scale"]
    return x.to(getattr(torch, form["dtype"])).reshape(form["shape"])


def _compressed(x: Tensor) -> Tensor:
    """Return a tensor's bytes compressed: first bytes of all values, then second ones and so on, to compress better."""
    raw = x.flatten().view(torch.uint8).numpy().reshape(-1, x.element_size())
    packed = _zstd().ZstdCompressor(level=3).compress(np.ascontiguousarray(raw.T).tobytes())
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def _decompressed(packed: Tensor, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    raw = _zstd().ZstdDecompressor().decompress(packed.numpy().tobytes())
    width = torch.empty((), dtype=dtype).element_size()
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(width, -1)
    return torch.from_numpy(planes.T.flatten()).view(dtype).reshape(shape)


def _zstd() -> Any:
    try:
        import zstandard
    except ImportError:
        raise SegkdError(
            f"teacher.store.compress: zstd needs the package zstandard (pip install 'segkd[zstd]'); "
            f"valid without it: {get_args(Compression)[0]}"
        ) from None
    return zstandard
