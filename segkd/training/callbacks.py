"""Callbacks around the steps: metrics.csv, pictures, the display of progress, and what the run costs."""

import contextlib
import csv
import io
import sys
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import Progress

from segkd.common.files import write_text
from segkd.common.progress import CutColumn, has_bars, progress_bar, say
from segkd.data.dataset import SeededDataset
from segkd.data.samples import spread
from segkd.training.measure import Measure
from segkd.training.module import DistillModule
from segkd.training.run import Run
from segkd.training.task import Task


class Cost(pl.Callback):
    """Counts seconds and memory, over all parts of a run that is resumed. It must be the last callback.

    Validation, its pictures and its checkpoints are not counted, so that it does not matter how often a run validates.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        """Seconds of training so far: loading, both models, the optimiser step."""
        self.peak_memory: int | None = None
        """Bytes: what the GPU held at most, or on a CPU the resident memory of the process; None where unknown."""
        self._clock = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return seconds and memory."""
        return {"seconds": self.seconds, "peak_memory": self.peak_memory}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore seconds and memory."""
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
        """Wait for the GPU and count the time until now; note the peak of memory."""
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
    """Return the most bytes that this process has held: on the GPU, else in main memory; None where unknown."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return None
    # On Linux, getrusage counts the process that started this one too.
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class MetricsFile(pl.Callback):
    """Writes each validation to ``metrics.csv``; a resumed run goes on below what is there."""

    def __init__(self, run: Run, cost: Cost) -> None:
        self.path, self.cost = run.metrics, cost
        self._rows: list[dict[str, Any]] = [*run.rows()] if self.path.exists() else []

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write one row."""
        assert isinstance(module, DistillModule)
        if not trainer.is_global_zero:
            return
        row: dict[str, Any] = {"step": trainer.global_step, "seconds": round(self.cost.seconds, 3)}
        row |= {key: round(value, 6) for key, value in module.task.scalars(module.measured).items()}
        # A row of this step or a later one is from before the run stopped and was resumed.
        self._rows = [*(old for old in self._rows if int(old["step"]) < row["step"]), row]
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(row))
        writer.writeheader()
        writer.writerows(self._rows)
        write_text(self.path, text.getvalue())


class Pictures(pl.Callback):
    """After each validation draws a few images spread over the split, the same ones each time, see `Task.boards`."""

    def __init__(self, task: Task, dataset: SeededDataset) -> None:
        self.task = task
        indices = spread(list(range(len(dataset))), task.config.validation.pictures)
        self.items: list[dict[str, Any]] = [dataset[index] for index in indices]

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Draw and write, in the first process."""
        if not trainer.is_global_zero or not self.items:
            return
        assert isinstance(module, DistillModule)
        assert isinstance(trainer.logger, TensorBoardLogger)
        writer: Any = trainer.logger.experiment
        with torch.no_grad():
            for name, picture in self.task.boards(module, self.items).items():
                writer.add_image(name, picture, trainer.global_step, dataformats="HWC")


class Watch(pl.Callback):
    """Shows step, time left, loss, score and images per second: a bar in a terminal, lines in a log.

    In a log there is a line at the start, after the first step, after each validation, and every half minute between.
    """

    EVERY = 30.0
    """Seconds between two lines."""

    def __init__(self, name: str, score: Measure, console: Console, images: int, validate_every: int) -> None:
        self.name, self.score, self.console = name, score, console
        self.images, self.validate_every = images, validate_every
        self.bar: Progress | None = None
        self._clock: float | None = None
        self._images, self._begun_at, self._next_line = 0, 0, 0.0
        self.speed: float | None = None
        """Images per second over all processes, since the last validation; None before the second batch after it."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Say what begins, and start the bar."""
        if not trainer.is_global_zero:
            return
        self._begun_at, self._next_line = trainer.global_step, 0.0
        processes = f" x {trainer.world_size}" if trainer.world_size > 1 else ""
        say(
            self.console,
            f"{self.name}: training on {module.device}{processes}, {self.images} images, "
            + (f"from step {self._begun_at} to {trainer.max_steps}" if self._begun_at else f"{trainer.max_steps} steps")
            + f", validation every {self.validate_every}",
        )
        if has_bars(self.console):
            self.bar = progress_bar(self.console, CutColumn("values"))
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=trainer.max_steps, completed=trainer.global_step, values="")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the images and show where the run stands."""
        if self._clock is None:  # the first batch starts workers and compiles: the clock starts after it
            self._clock, self._images = time.monotonic(), 0
        else:
            self._images += module.config.data.batch_size * trainer.world_size
            self.speed = self._images / (time.monotonic() - self._clock)
            if trainer.global_step % module.config.trainer.log_every == 0 and module.ends_step(batch_idx):
                module.write({"speed/images_per_second": self.speed}, trainer.global_step)
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, values=self._values(module))
        elif time.monotonic() >= self._next_line and trainer.global_step > self._begun_at:
            self._line(trainer, module)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Stop the clock; in a log, write a line."""
        self._clock = None
        if self.bar is None:
            self._line(trainer, module)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        self.on_train_end(trainer, module)

    def _line(self, trainer: pl.Trainer, module: Any) -> None:
        """Write where the run stands, in the first process."""
        self._next_line = time.monotonic() + self.EVERY
        if not trainer.is_global_zero:
            return
        batch = module.config.data.batch_size * module.config.trainer.accumulate * trainer.world_size
        left = int((trainer.max_steps - trainer.global_step) * batch / self.speed) if self.speed else None
        say(
            self.console,
            f"{self.name}: step {trainer.global_step}/{trainer.max_steps}  {self._values(module)}"
            + ("" if left is None else f"  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"),
        )

    def _values(self, module: Any) -> str:
        score = self.score.shown(module.measured.get(self.score.key))
        loss = "-" if module.latest_loss is None else f"{module.latest_loss:.3f}"
        return f"loss {loss}  {self.score.label} {score}  {'-' if self.speed is None else f'{self.speed:.1f}'} images/s"
