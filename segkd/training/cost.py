"""What a run costs, and where: seconds of training, memory at its peak, versions and hardware."""

import importlib.metadata
import os
import platform
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch

PACKAGES = (
    "segkd",
    "torch",
    "torchvision",
    "pytorch-lightning",
    "segmentation-models-pytorch",
    "timm",
    "albumentations",
)


class Cost(pl.Callback):
    """Counts seconds and memory, over all parts of a run that is resumed. Goes last in the list of callbacks.

    Validation, its pictures and its checkpoints are not counted: how often a run is validated changes nothing here.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """Seconds of training so far: loading, both models, the optimiser step."""
        self.peak_memory: int | None = None
        """Bytes: what the GPU held at most, or on a CPU the resident memory of the process; None where unknown."""
        self._clock = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return both, for a checkpoint."""
        return {"seconds": self.seconds, "peak_memory": self.peak_memory}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take both back."""
        self.seconds, self.peak_memory = state_dict["seconds"], state_dict["peak_memory"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock; what the GPU held for a teacher that was trained before does not count."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        self._clock = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count one batch."""
        self._count()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Count what a GPU has still to do."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if trainer.training:
            self._count()
        peak = peak_memory()
        if peak is not None:
            self.peak_memory = max(peak, self.peak_memory or 0)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock anew."""
        self._clock = time.monotonic()

    def _count(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now


def peak_memory() -> int | None:
    """Return the most bytes that this process has held so far: on the GPU, or where there is none in main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment() -> dict[str, Any]:
    """Return versions of what a result depends on, and the hardware: ``gpu`` is None where there is none."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    """The processor as the system calls it; Python's own answer is empty on many a Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
