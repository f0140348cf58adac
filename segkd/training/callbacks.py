"""What happens around the steps: checkpoints, metrics.csv, and the line or bar that a person watches."""

import csv
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segkd.training.module import DistillModule
from segkd.training.run import Run


class Checkpoints(pl.Callback):
    """Writes ``last.ckpt`` as it goes and ``best.ckpt`` when val mIoU rises, each moved into place when it is whole.

    Lightning's own callback writes in place: a run that is killed while it writes could not be resumed.

    Args:
        run: where they go.
        every: steps between two ``last.ckpt``.
    """

    def __init__(self, run: Run, every: int) -> None:
        self.run, self.every = run, every
        self.best: dict[str, Any] = {}
        """What the best validation measured, and its ``step``; empty before the first."""
        self._saved = -1

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it back."""
        self.best = state_dict["best"]

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write ``last.ckpt`` when it is time."""
        if trainer.global_step != self._saved and trainer.global_step % self.every == 0:
            self.save(trainer, self.run.last)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write ``best.ckpt`` when the student is better than ever."""
        assert isinstance(module, DistillModule)
        if not trainer.sanity_checking and module.measured["miou"] > self.best.get("miou", -1.0):
            self.best = {"step": trainer.global_step, **module.measured}
            self.save(trainer, self.run.best)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write the last step's ``last.ckpt``."""
        self.save(trainer, self.run.last)

    def save(self, trainer: pl.Trainer, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        if path == self.run.last:
            self._saved = trainer.global_step
        scratch = path.with_suffix(".tmp")
        trainer.save_checkpoint(scratch)
        if trainer.is_global_zero:
            os.replace(scratch, path)


class MetricsFile(pl.Callback):
    """Appends each validation to ``metrics.csv``; a resumed run goes on below what is there.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write one row."""
        assert isinstance(module, DistillModule)
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        row: dict[str, float] = {"step": trainer.global_step}
        row |= {key: round(value, 6) for key, value in module.scalars().items()}
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


class Watch(pl.Callback):
    """Shows step, loss, mIoU, images per second and time left: a bar in a terminal, lines in a log.

    Args:
        name: of the run.
        console: where it is shown.
    """

    def __init__(self, name: str, console: Console) -> None:
        self.name, self.console = name, console
        self.bar: Progress | None = None
        self._since, self._images, self._speed = time.monotonic(), 0, 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Start the clock and the bar."""
        self._since, self._images = time.monotonic(), 0
        if self.console.is_terminal and trainer.is_global_zero:
            self.bar = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[values]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self.bar.start()
            self.task = self.bar.add_task(self.name, total=trainer.max_steps, completed=trainer.global_step, values="")

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the images and show where the run stands."""
        self._images += len(batch["image"]) * trainer.world_size
        elapsed = time.monotonic() - self._since
        if elapsed > 2:
            self._speed, self._since, self._images = self._images / elapsed, time.monotonic(), 0
            module.log("speed/images_per_second", self._speed)
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, values=self._values(module))

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Note the speed before the clock stops for the validation."""
        elapsed = time.monotonic() - self._since
        if self._images and elapsed > 0.5:
            self._speed = self._images / elapsed

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Restart the clock; in a log, write a line."""
        self._since, self._images = time.monotonic(), 0
        if self.bar is None and trainer.is_global_zero and not trainer.sanity_checking:
            assert isinstance(module, DistillModule)
            batch = module.config.data.batch_size * module.config.trainer.accumulate * trainer.world_size
            left = (trainer.max_steps - trainer.global_step) * batch / self._speed if self._speed else 0
            self.console.print(
                f"{self.name}: step {trainer.global_step}/{trainer.max_steps}  {self._values(module)}  "
                f"{int(left) // 60}:{int(left) % 60:02d} left",
                highlight=False,
            )

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error stands on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _values(self, module: Any) -> str:
        miou = module.measured.get("miou")
        return (
            f"loss {module.latest_loss:.3f}  mIoU {'-' if miou is None else f'{100 * miou:.2f}'}  "
            f"{self._speed:.1f} images/s"
        )
