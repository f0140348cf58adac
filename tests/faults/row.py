"""One row of the table, and the folders that rows start from."""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trees
import yaml
from experiments import DETECTION, DISTILLED, TINY, segkd, write

FOLDERS = ("segmentation", "detection", "run", "detection_run")


@dataclass(frozen=True)
class Fault:
    """One command that must be refused.

    Attributes:
        name: what is wrong, in a few words; each name once.
        command: what follows ``segkd``, in the row's folder; relative paths, quotes as in a shell.
        texts: what the one line must hold.
        files: path in the folder -> text, bytes, or what is written as YAML, before the command.
        prepare: does what files cannot (a fifo, a folder in the way); called with the folder.
        folder: what the row starts from. ``segmentation`` and ``detection``: tiny.yaml and distilled.yaml beside
            their data; ``run`` and ``detection_run``: these, and the finished run runs/tiny.
        status: the exit status.
        seconds: the most CPU time that the command may take.
        absent: a package that is not installed.
    """

    name: str
    command: str
    texts: tuple[str, ...]
    files: Mapping[str, Any] = field(default_factory=dict)
    prepare: Callable[[Path], None] | None = None
    folder: str = "segmentation"
    status: int = 2
    seconds: float = 10.0
    absent: str = ""

    def set_up(self, folder: Path) -> None:
        """Write what the row needs into its copy of the folder."""
        for name, content in self.files.items():
            if isinstance(content, bytes):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            else:
                write(folder / name, content)
        if self.prepare is not None:
            self.prepare(folder)


def make_folder(kind: str, folder: Path) -> Path:
    """Make what the rows of one kind start from; every path in it is relative, so that it can be copied."""
    task = kind.removesuffix("_run").replace("run", "segmentation")
    tiny = DETECTION if task == "detection" else TINY
    if task == "detection":
        trees.make_bccd(folder / "data", train=3, val=2)
        (folder / "data/bccd.yaml").rename(folder / "data.yaml")
    else:
        trees.make_camvid(folder / "data", train=3, val=2)
        (folder / "data/camvid.yaml").rename(folder / "data.yaml")
    described = yaml.safe_load((folder / "data.yaml").read_text())
    write(folder / "data.yaml", yaml.safe_dump({**described, "root": "data"}, sort_keys=False))
    write(folder / "tiny.yaml", {**tiny, "data": {**tiny["data"], "dataset": "data.yaml"}})
    write(folder / "teacher.yaml", {"base": "tiny.yaml", "name": "teacher"})
    distilled = {"class": {"loss": "crosskd_class"}} if task == "detection" else DISTILLED["distill"]["terms"]
    write(
        folder / "distilled.yaml",
        {
            "base": "tiny.yaml",
            "name": "distilled",
            "teacher": {"config": "teacher.yaml"},
            "distill": {"terms": distilled},
        },
    )
    return folder


def make_run(folder: Path) -> Path:
    """Train runs/tiny in a folder; the working directory is that folder."""
    outcome = segkd("train", "tiny.yaml", "trainer.max_steps=1", "validation.pictures=0", "data.root=data")
    assert outcome.status == 0, outcome.err
    return folder


def fifo(name: str) -> Callable[[Path], None]:
    """Return what puts a fifo in a place: to read one waits for ever."""

    def prepare(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(folder / name)

    return prepare


def remove(*names: str) -> Callable[[Path], None]:
    """Return what takes files or folders away."""

    def prepare(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return prepare
