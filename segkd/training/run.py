"""The run directory: everything needed to see, resume, repeat and ship a run.

::

    runs/<name>/config.yaml  checkpoints/{last,previous,best}.ckpt  student/{model.safetensors,config.json}
                events.out.*  metrics.csv  result.json (once it is finished)
"""

import contextlib
import csv
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from segkd.common.files import is_disk_full, write_text
from segkd.common.student import no_folder, no_run
from segkd.errors import DiskFull, SegkdError
from segkd.training.config import dump_config, load_config, same_dataset, whole
from segkd.training.layers import changes_of, leaves
from segkd.training.results import write_json
from segkd.training.schema import Config


class Run:
    """The paths and the state of one run; making this object neither writes nor reads anything."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.config_file = self.directory / "config.yaml"
        self.last = self.directory / "checkpoints" / "last.ckpt"
        self.previous = self.directory / "checkpoints" / "previous.ckpt"
        self.best = self.directory / "checkpoints" / "best.ckpt"
        self.student = self.directory / "student"
        self.metrics = self.directory / "metrics.csv"
        self.result_file = self.directory / "result.json"
        self._lock = self.directory / ".lock"

    @classmethod
    def of(cls, config: Config) -> "Run":
        """Return the run that a config makes."""
        return cls(Path(config.runs) / config.name)

    def auxiliary_of(self, teacher: str) -> Path:
        """Return the file of the auxiliary head that this run has trained for a teacher."""
        return self.directory / f"{teacher}_auxiliary.safetensors"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.result_file.is_file()

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.last.is_file() or self.previous.is_file()

    def config(self, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
        """Return the config that the run was started with, with these changes, see `load_config`."""
        if not self.directory.exists():
            raise no_run(self.directory)
        if self.directory.is_file():
            raise no_folder(self.directory)
        if not self.config_file.is_file():
            raise SegkdError(f"{self.directory} is no run directory: it has no config.yaml")
        return load_config(str(self.config_file), overrides, build=False)

    def check_student(self, config: Config, overrides: Sequence[str] | Mapping[str, Any]) -> None:
        """Raise where the overrides, part of ``config``, ask for another student than this run has saved."""
        asked = changes_of(overrides)[-1].keys.get("student")
        if not asked:
            return
        for key in _differing(self.config(), config):
            block, _, rest = key.partition(".")
            if block == "student" and rest.partition(".")[0] in asked:
                raise SegkdError(
                    f"{key}: the trained student of {self.directory} is used as it is; begin another with 'segkd train "
                    f"{self.config_file} name=... {key}=...'"
                )

    def result(self) -> dict[str, Any]:
        """Return what the finished run measured."""
        again = f"; remove {self.result_file.name}, and 'segkd train --resume {self.directory}' writes it again"
        try:
            result: dict[str, Any] = json.loads(self.result_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SegkdError(f"{self.result_file} cannot be read: {error}{again}") from None
        if not isinstance(result, dict):
            raise SegkdError(f"{self.result_file} is no result of 'segkd train'{again}")
        return result

    def rows(self, *numbers: str) -> list[dict[str, str]]:
        """Return the rows of ``metrics.csv``, as text; raise unless the columns ``numbers`` hold numbers or nothing."""
        try:
            text = self.metrics.read_bytes().decode()
            rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
            for row in rows:
                if None in row or None in row.values():
                    raise ValueError(f"a row has not one value for each column: {list(row.values())[:3]}")
                int(row["step"])
                for name in numbers:
                    float(row[name] or "nan")
            if rows and not text.endswith("\n"):
                raise ValueError("it ends in the middle of a row")
        except (OSError, KeyError, ValueError, csv.Error) as error:
            reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
            raise SegkdError(f"{self.metrics} cannot be read: {reason}") from None
        return rows

    @contextlib.contextmanager
    def locked(self, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the run's lock, so that no other process makes or trains it; it is released even if this one is killed.

        The directory is made if absent. This process may hold the lock several times. If another process holds it,
        ``waiting`` is called and the lock waited for; without ``waiting`` a `SegkdError` is raised.
        """
        # One lock object for each path can be acquired again: a teacher's is held when its training begins.
        lock = FileLock(self._lock, is_singleton=True)
        made = [folder for folder in (self.directory, *self.directory.parents) if not folder.exists()]
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            held = lock.acquire(timeout=0)
        except Timeout:
            if waiting is None:
                raise SegkdError(f"{self.directory} is being trained by another process") from None
            waiting()
            held = lock.acquire(poll_interval=0.5)
        except OSError as error:
            if is_disk_full(error):
                raise
            raise SegkdError(f"the run directory {self.directory} cannot be written: {error.strerror}") from None
        with held:
            try:
                yield
            finally:
                # Where no run was begun, the lock's file and the folders that were made for it go away again.
                if self.directory.is_dir() and list(self.directory.iterdir()) == [self._lock]:
                    self._lock.unlink()
                    for folder in made:
                        with contextlib.suppress(OSError):
                            folder.rmdir()

    def check_free(self) -> None:
        """Raise unless a new run may be put here: nothing that is there is ever overwritten."""
        if self.finished:
            raise SegkdError(f"{self.directory} holds a finished run: choose another name=..., or remove it first")
        if self.config_file.is_file():
            raise SegkdError(
                f"{self.directory} holds a run that is not finished: go on with 'segkd train --resume "
                f"{self.directory}', or choose another name=..."
            )
        if self.directory.is_dir() and any(path != self._lock for path in self.directory.iterdir()):
            raise SegkdError(f"{self.directory} holds other files: choose another name=...")
        # The folders that are missing must be possible to make: checked now, not after the teacher's training.
        there = next(folder for folder in (self.directory, *self.directory.absolute().parents) if folder.exists())
        if not there.is_dir():
            raise SegkdError(f"the run directory {self.directory} cannot be made: {there} is a file; set name or runs")
        if not os.access(there, os.W_OK | os.X_OK):
            raise SegkdError(
                f"the run directory {self.directory} cannot be made: {there} is not writable; set runs=..."
            )

    def create(self, config: Config) -> None:
        """Make the directory and write the config into it."""
        self.check_free()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Until config.yaml is there the directory holds at most its lock: killed before, it is in nobody's way.
            scratch = self.directory.with_name(f".{self.directory.name}.tmp")
            write_text(self.config_file, dump_config(config), scratch=scratch)
            self.last.parent.mkdir(exist_ok=True)
        except DiskFull:
            raise
        except OSError as error:
            raise SegkdError(f"the run directory {self.directory} cannot be written: {error.strerror}") from None

    def change(self, config: Config) -> None:
        """Replace the config of a resumed run if it has changed, and remove its result: it is not finished any more."""
        self.last.parent.mkdir(exist_ok=True)  # the run may have been killed as `create` had written the config
        if config != self.config():
            write_text(self.config_file, dump_config(config))
        self.result_file.unlink(missing_ok=True)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, which says that the run is finished."""
        write_json(self.result_file, result)


HARMLESS = (
    "trainer.max_steps",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.threads",
    "trainer.log_every",
    "trainer.checkpoint_every",
    "validation.every",
    "validation.batch_size",
    "validation.pictures",
    "data.root",
    "data.workers",
    "data.max_pixels",
    "teacher.store.folder",
)
"""Keys that may change when a run is resumed: how far, where and how it is computed, read, stored, measured and
logged. Any other key changes what is learnt: the run would then not be one that its config describes."""


def resumed_config(run: Run, overrides: Sequence[str] | Mapping[str, Any]) -> Config:
    """Return a run's config with these changes; raise unless a resumed run may have all of them, see `HARMLESS`.

    A finished run must be given more ``trainer.max_steps``.
    """
    old, new = run.config(), run.config(overrides)
    refused = [key for key in _differing(old, new) if key not in HARMLESS and not _is_of_store(key)]
    if refused:
        raise SegkdError(
            f"{run.directory} cannot go on with another {', '.join(refused)}: that would be another run; begin one "
            f"with 'segkd train {run.config_file} name=... {refused[0]}=...' (it takes {', '.join(HARMLESS)})"
        )
    if run.finished and new.stages:
        raise SegkdError(
            f"{run.directory} is finished, and its stages are as long as they were: to go further begin a run with "
            f"'segkd train {run.config_file} name=... stages=...'"
        )
    if run.finished and new.trainer.max_steps <= (steps := run.result()["steps"]):
        raise SegkdError(
            f"{run.directory} is finished, after {steps} steps: to go further give it more, such as "
            f"'segkd train --resume {run.directory} trainer.max_steps={2 * steps}'"
        )
    return new


def changed_keys(mine: Config, theirs: Config) -> list[str]:
    """Return the dotted keys in which two configs differ, without folders, workers, threads and the limit of pixels."""
    left, right = settings(mine), settings(theirs)

    def counts(key: str) -> bool:
        if key in ("runs", "data.workers", "trainer.threads", "data.root", "data.max_pixels") or _is_of_store(key):
            return False
        return not (key.endswith("data.dataset") and same_dataset(str(left.get(key)), str(right.get(key))))

    return list(filter(counts, _differing(mine, theirs)))


def _is_of_store(key: str) -> bool:
    """Whether a key names the folder of a teacher's store, be it that of one of several or of a stage."""
    return key.endswith(".store.folder")


def _differing(mine: Config, theirs: Config) -> list[str]:
    left, right = settings(mine), settings(theirs)
    return sorted(key for key in {*left, *right} if left.get(key) != right.get(key))


def settings(config: Config) -> dict[str, Any]:
    """Return the values of a config by their dotted keys; a method that is named without options is ``defaults``."""
    dump = whole(config)
    for key in ("schedule", "pixel_weighting"):
        named = dump["distill"][key] or {}
        dump["distill"][key] = {name: options or "defaults" for name, options in named.items()}
    for term in (dump["distill"]["terms"] or {}).values():
        if term and term.get("share") is not None:
            del term["weight"]  # a share takes its place
    task_losses = dump.get("task_loss") or {"cross_entropy": None}
    dump["task_loss"] = {name: options or "defaults" for name, options in task_losses.items()}
    return leaves(dump, dict)
