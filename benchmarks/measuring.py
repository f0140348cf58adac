"""How the benchmarks take times and memory, and what they say of the machine."""

import ctypes
import gc
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

MIB = 2**20
WARM_UP = 2
"""Rounds that are not counted, unless one takes so long that there are few."""


def times(functions: Sequence[Callable[[], object]], device: str, repeats: int, seconds: float) -> list[list[float]]:
    """Return the milliseconds of each function, run in turn ``repeats`` times or, if that is less, so many seconds.

    On the CPU with one thread both are CPU time.
    """
    taken: list[list[float]] = [[] for _ in functions]
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    begin = clock()
    for _ in range(repeats + WARM_UP):
        for function, list_ in zip(functions, taken, strict=True):
            start = clock()
            function()
            if device == "cuda":
                torch.cuda.synchronize()
            list_.append((clock() - start) * 1e3)
        if clock() - begin > seconds:
            break
    return [list_[WARM_UP if len(list_) > 2 * WARM_UP else 0 :] for list_ in taken]


def added_memory(function: Callable[[], object], device: str) -> float:
    """Return the MiB that a call needs at its peak beyond what is there; on the CPU of a process that has run little.

    On the CPU it is what the peak of the resident memory grows by (Linux), on CUDA the allocator's peak.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # what was freed goes back, so that it is not used again unseen
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before = _peak_resident()
    function()
    return (_peak_resident() - before) / MIB


def _peak_resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    raise SystemExit("peak memory on the CPU is read from /proc/self/status, which this system does not have")


def machine(device: str, threads: int) -> str:
    if device == "cuda":
        chip = torch.cuda.get_device_name()
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        chip = f"{models[0] if models else platform.processor()}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{chip}; torch {torch.__version__}, Python {platform.python_version()}, {platform.system()}"
