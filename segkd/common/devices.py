"""Which devices this machine has, and the one that is asked for."""

import torch

from segkd.errors import SegkdError


def devices() -> list[str]:
    """Return the names of the devices that are there, the fastest first, ``cpu`` last."""
    found = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


def find_device(name: str = "auto", asked: str = "--device") -> torch.device:
    """Return the device ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``gpu`` (one of the last three) or ``auto`` (fastest).

    Raises:
        SegkdError: there is no such device; the message says where it was asked for, and which there are.
    """
    there = devices()
    if name == "auto" or (name == "gpu" and len(there) > 1):
        return torch.device(there[0])
    if name in (*there, there[0].partition(":")[0]):  # cuda: the first
        return torch.device(name)
    raise SegkdError(f"{asked} {name!r}: there is no such device here; there are: {', '.join(there)}; or auto")
