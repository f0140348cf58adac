"""The run directory: everything needed to see, resume, repeat and ship a run.

::

    runs/<name>/config.yaml  checkpoints/{last,best}.ckpt  student/{model.safetensors,config.json}
                events.out.*  metrics.csv  result.json (once it is finished)
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segkd.errors import SegkdError
from segkd.training.config import dump_config, load_config
from segkd.training.schema import Config


class Run:
    """The paths and the state of one run.

    Args:
        directory: of the run; nothing is made or read yet.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.config_file = self.directory / "config.yaml"
        self.last = self.directory / "checkpoints" / "last.ckpt"
        self.best = self.directory / "checkpoints" / "best.ckpt"
        self.student = self.directory / "student"
        self.metrics = self.directory / "metrics.csv"
        self.teacher_auxiliary = self.directory / "teacher_auxiliary.safetensors"
        self.result_file = self.directory / "result.json"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return self.result_file.is_file()

    def config(self) -> Config:
        """Return the config that the run was started with.

        Raises:
            SegkdError: this is no run directory, or its config cannot be read.
        """
        if not self.config_file.is_file():
            raise SegkdError(f"{self.directory} is no run directory: it has no config.yaml")
        return load_config(str(self.config_file))

    def result(self) -> dict[str, Any]:
        """Return what the finished run measured.

        Raises:
            SegkdError: it is not finished, or its result cannot be read.
        """
        try:
            result: dict[str, Any] = json.loads(self.result_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SegkdError(f"{self.result_file} cannot be read: {error}") from None
        return result

    def check_free(self) -> None:
        """Raise unless a new run may be put here: nothing that is there is ever overwritten."""
        if self.directory.exists() and not self.directory.is_dir():
            raise SegkdError(f"{self.directory} is a file: a run needs a directory, choose another name=...")
        if self.finished:
            raise SegkdError(f"{self.directory} holds a finished run: choose another name=..., or remove it first")
        if self.config_file.is_file():
            raise SegkdError(
                f"{self.directory} holds a run that is not finished: go on with 'segkd train --resume "
                f"{self.directory}', or choose another name=..."
            )
        if self.directory.is_dir() and any(self.directory.iterdir()):
            raise SegkdError(f"{self.directory} holds other files: choose another name=...")

    def create(self, config: Config) -> None:
        """Make the directory and write the config into it.

        Raises:
            SegkdError: see `check_free`, or the directory cannot be written.
        """
        self.check_free()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.last.parent.mkdir(exist_ok=True)
            self.config_file.write_text(dump_config(config), encoding="utf-8")
        except OSError as error:
            raise SegkdError(f"the run directory {self.directory} cannot be written: {error.strerror}") from None

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``, which says that the run is finished."""
        scratch = self.result_file.with_suffix(".tmp")
        scratch.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        scratch.replace(self.result_file)


def changed_keys(mine: Config, theirs: Config) -> list[str]:
    """Return the dotted keys in which two configs differ, where they are written and how many workers load left out."""
    left, right = _flatten(mine.model_dump(mode="json")), _flatten(theirs.model_dump(mode="json"))
    harmless = ("runs", "data.workers", "trainer.threads", "data.root")
    keys = sorted(key for key in {*left, *right} if left.get(key) != right.get(key))
    return [key for key in keys if key not in harmless]


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
