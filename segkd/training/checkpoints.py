"""A run's checkpoints: when they are written, how they are kept whole, and what is done about a damaged one."""

import io
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from segkd import signals
from segkd.common.files import replacing
from segkd.common.weights import check_finite, read_content
from segkd.errors import Interrupted, SegkdError
from segkd.training.average import StudentAverage, averaged
from segkd.training.measure import Measure
from segkd.training.module import DistillModule
from segkd.training.run import Run

# What Lightning and `DistillModule` put into a checkpoint, and what is read of it here.
_PARTS = {
    "global_step": int,
    "state_dict": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "loops": dict,
    "callbacks.Checkpoints.best": dict,
    "callbacks.Cost.seconds": float,
    "measured": dict,
}


class Checkpoints(pl.Callback):
    """Writes ``last.ckpt`` regularly and ``best.ckpt`` when the score improves, each moved into place when complete.

    The former ``last.ckpt`` stays as ``previous.ckpt``. A step that is validated is saved after its validation, so that
    resuming never skips one. A signal to stop takes effect after a step or, with one process, within a validation:
    ``last.ckpt`` is then written, and says whether its validation is still to be done.

    Args:
        run: where they go.
        score: the measure that says which validation is best.
        every: steps between two ``last.ckpt``, besides those after a validation.
        validate_every: steps between two validations.
        ends: the last step of each stage, which is always validated.
        average: replaces the weights in validations, and so in ``best.ckpt``; None: nothing does.

    Attributes:
        path: the checkpoint that training resumes from; None where there is none yet.
        content: what it holds.
        step: the step after which it was written; 0 where there is none yet.
        remark: what the user should know of it, or nothing.
        is_restored: whether training has begun, so that all of the checkpoint was restored.
        files: takes checkpoints from Lightning's Trainer, which must have it as a plugin.
        best: what the best validation measured, and its ``step``; empty before the first.
        pending: whether the last step is still to be validated.
    """

    def __init__(
        self,
        run: Run,
        score: Measure,
        every: int,
        validate_every: int,
        ends: Sequence[int],
        average: StudentAverage | None = None,
    ) -> None:
        self.run, self.score, self.average = run, score, average
        self.every, self.validate_every, self.ends = every, validate_every, ends
        self.path, self.content, self.remark = find_checkpoint(run)
        self.step: int = self.content.get("global_step", 0)
        self.best: dict[str, Any] = read_best(run.best, score.key) if run.best.is_file() else {}
        self.pending = bool(_part(self.content, "callbacks.Checkpoints.pending"))
        self.is_restored = False
        self.files = _Taken()
        self._unvalidated: dict[str, Any] | None = None
        # A damaged last.ckpt must not become previous.ckpt.
        self._keep_last = self.path == run.last

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"best": self.best, "pending": self.pending}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Do the validation in which the run was stopped; Lightning has restored the checkpoint by now."""
        self.is_restored = True
        signals.claim()  # Lightning's own handler would end the run without a checkpoint
        if self.pending:
            loop = trainer.fit_loop.epoch_loop.val_loop
            trainer.validating, loop.restarting = True, False
            loop.run()
            trainer.training = True

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Set the signal handlers, also where nothing is trained."""
        signals.claim()

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write ``last.ckpt`` when it is due and no validation follows, or when a signal asks to stop."""
        if not module.ends_step(batch_idx):
            return
        step = trainer.global_step
        is_validated = step % self.validate_every == 0 or step in self.ends
        number = self._asked(trainer)
        if is_validated:
            self.pending = True
            self._unvalidated = self._take(trainer, self.run.last)
        if number is not None or (step % self.every == 0 and not is_validated):
            self._save(trainer, self.run.last)
        _end(number)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop within a validation when a signal asks for it, with the checkpoint from before the validation."""
        # Processes may have different numbers of batches, so several could not agree on the batch to stop at.
        if trainer.world_size == 1 and signals.asked() is not None:
            if self._unvalidated is not None:  # else last.ckpt is that checkpoint, from which the run was resumed
                self._write(self._unvalidated, self.run.last)
            signals.raise_if_asked()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Write ``best.ckpt`` when the student is better than ever, and ``last.ckpt``."""
        assert isinstance(module, DistillModule)
        self.pending, self._unvalidated = False, None
        sign = 1 if self.score.higher_is_better else -1
        if not self.best or sign * module.measured[self.score.key] > sign * self.best[self.score.key]:
            self.best = {"step": trainer.global_step, **module.measured}
            self._save(trainer, self.run.best)
        if self.average is not None:
            self.average.put_back(module)
        self._save(trainer, self.run.last)
        _end(self._asked(trainer))

    def _asked(self, trainer: pl.Trainer) -> int | None:
        """Return the signal that asks to stop, the same in all processes, whichever received it; None without one."""
        number = signals.asked()
        if trainer.world_size > 1:
            numbers = torch.tensor(number or 0, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX)
            number = int(numbers) or None
        return number

    def _save(self, trainer: pl.Trainer, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        content = self._take(trainer, path)
        if trainer.is_global_zero:
            self._write(content, path)

    def _take(self, trainer: pl.Trainer, path: Path) -> dict[str, Any]:
        """Return what a checkpoint would hold now, in the first process; raise where a weight is not finite."""
        module = trainer.lightning_module
        assert isinstance(module, DistillModule)
        module.stop_if_bad()
        trainer.save_checkpoint(path)
        try:
            check_finite(self.files.content.get("state_dict", {}), path)
        except SegkdError as error:
            raise SegkdError(
                f"step {trainer.global_step}: {error}: training stops, the file is as it was; lower the learning "
                "rate, or set trainer.gradient_clip"
            ) from None
        return self.files.content

    def best_is_last(self, writes: bool) -> None:
        """Take the last step's validation as the best, for a run that is at its end and whose best.ckpt was removed."""
        self.best = {"step": self.step, **self.content["measured"]}
        self.content["callbacks"]["Checkpoints"]["best"] = self.best
        if writes:
            state = self.content["state_dict"] | averaged(self.content)
            self._write({**self.content, "state_dict": state}, self.run.best)

    def _write(self, content: dict[str, Any], path: Path) -> None:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        with replacing(path, size=buffer.tell()) as scratch:
            scratch.write_bytes(buffer.getbuffer())
            if path == self.run.last:
                if self._keep_last:
                    os.replace(path, self.run.previous)
                self._keep_last = True


def _end(number: int | None) -> None:
    """Raise `Interrupted` for the signal that all processes agreed on; a later one waits until they agree again."""
    if number is not None:
        raise Interrupted(number)


class _Taken(TorchCheckpointIO):
    """Holds what the Trainer would write: Lightning itself writes to the temporary folder first, which may be small."""

    def __init__(self) -> None:
        self.content: dict[str, Any] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Keep the checkpoint; Lightning calls this in the first process only."""
        self.content = checkpoint


def find_checkpoint(run: Run) -> tuple[Path | None, dict[str, Any], str]:
    """Return the path of the last intact checkpoint, its content and a remark; None and nothing before the first."""
    if not run.begun:
        return None, {}, ""
    try:
        return run.last, read_checkpoint(run.last), ""
    except SegkdError as error:
        if not run.previous.is_file():
            raise
        content = read_checkpoint(run.previous)
        remark = f"{error}: the run goes on from {run.previous.name}, step {content['global_step']}"
        return run.previous, content, remark


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds; raise unless it is intact, of ``segkd train``, and its weights are finite."""
    content: Any = read_content(path)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not look at the checksums
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        damaged = str(error)
    if damaged is not None:
        raise SegkdError(f"{path} is damaged: {damaged}")
    missing = next((key for key, kind in _PARTS.items() if not isinstance(_part(content, key), kind)), None)
    if missing is None and not all(isinstance(value, Tensor) for value in content["state_dict"].values()):
        missing = "state_dict"
    if missing is not None:
        raise SegkdError(f"{path} is no checkpoint of 'segkd train': it has no {missing!r}")
    check_finite(content["state_dict"], path)
    return content


def read_best(path: Path, score: str) -> dict[str, Any]:
    """Return what the validation of a ``best.ckpt`` measured, and its ``step``; see `read_checkpoint`."""
    try:
        best: dict[str, Any] = read_checkpoint(path)["callbacks"]["Checkpoints"]["best"]
        if not {"step", score} <= best.keys():
            raise SegkdError(f"{path} is no checkpoint of 'segkd train': it does not say what was measured")
    except SegkdError as error:
        hint = f"remove {path.name} to go on without it: the best validation from there on then counts"
        raise SegkdError(f"{error}; {hint}") from None
    return best


def _part(content: Any, key: str) -> Any:
    """Return what lies under a dotted key, None where it does not exist."""
    for name in key.split("."):
        content = content.get(name) if isinstance(content, dict) else None
    return content
