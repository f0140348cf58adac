"""Tiny experiments: configs over a tiny tree of each task, and the command line run in this process."""

import contextlib
import csv
import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import trees
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segkd import cli
from segkd.commands.shared import console
from segkd.training.module import DistillModule

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"crop": [64, 96], "batch_size": 2, "workers": 0},
    "student": {"arch": "DeepLabV3Plus", "encoder": "tu-test_resnet"},
    "optimizer": {"name": "adamw", "lr": 0.001},
    "validation": {"every": 2, "batch_size": 2, "pictures": 1},
    "trainer": {"max_steps": 4, "threads": 1, "log_every": 1, "accelerator": "cpu"},
}
DISTILLED: dict[str, Any] = {
    "base": "tiny.yaml",
    "name": "distilled",
    "teacher": {"config": "teacher.yaml"},
    "distill": {
        "terms": {"icsd": {"loss": "icsd", "weight": 0.01}, "kd": {"loss": "pixel_kd"}},
        "schedule": {"alw": {"rise": ["task", "icsd"], "fall": ["kd"]}},
    },
}
DETECTION: dict[str, Any] = {
    "task": "detection",
    "name": "tiny",
    "data": {"min_size": 64, "max_size": 96, "batch_size": 2, "workers": 0},
    "student": {"arch": "gfl", "backbone": "tu-test_resnet", "options": {"out_channels": 64}},
    "optimizer": {"name": "adamw", "lr": 0.001},
    "validation": {"every": 2, "batch_size": 2, "pictures": 1},
    "trainer": {"max_steps": 4, "threads": 1, "log_every": 1, "accelerator": "cpu"},
}
CROSSKD: dict[str, Any] = {
    "base": "tiny.yaml",
    "name": "distilled",
    "teacher": {"config": "teacher.yaml"},
    "distill": {
        "terms": {
            "class": {"loss": "crosskd_class"},
            "box": {"loss": "crosskd_box", "weight": 4.0},
            "pkd": {"loss": "pkd", "student": "fpn", "teacher": "fpn", "weight": 6.0},
        },
    },
}


class Outcome(NamedTuple):
    """What a command did: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


def segkd(*arguments: object) -> Outcome:
    """Run the command line as the console script does, in this process."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["segkd", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        sys.argv = argv
        console.quiet = False
    return Outcome(status, out.getvalue(), err.getvalue())


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the command line in a process of its own; what it prints is read from its ``stdout``."""
    command = [sys.executable, "-u", "-m", "segkd.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def printed_until(process: subprocess.Popen[str], text: str) -> str:
    """Return what a process has printed up to the line with this text, which must come."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} was not printed: {''.join(lines)}")


@contextlib.contextmanager
def locked_by_a_child(path: Path, at_the_end: str = "") -> Iterator[subprocess.Popen[str]]:
    """Have a small process hold a lock; when its standard input closes it runs this Python text and ends."""
    code = "import sys, filelock, pathlib; lock = filelock.FileLock(sys.argv[1]).acquire(); print(); sys.stdin.read()"
    command = [sys.executable, "-c", f"{code}\n{at_the_end}", str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            assert child.stdout
            child.stdout.readline()
            yield child
        finally:
            child.kill()


def train(*arguments: object) -> Outcome:
    """Run ``segkd train``, which must succeed."""
    outcome = segkd("train", *arguments)
    assert outcome.status == 0, outcome.err
    return outcome


def refused(outcome: Outcome, *texts: str) -> None:
    """Assert that a command ended with one line that holds these texts, exit status 2 and no traceback."""
    assert outcome.status == 2, outcome
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.err.startswith("segkd: ")
    assert "Traceback" not in outcome.err
    for text in texts:
        assert text in outcome.err, f"{text!r} is not in {outcome.err!r}"


def write(path: Path, content: dict[str, Any] | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def make_experiment(folder: Path) -> Path:
    """Fill a folder with a tiny CamVid tree and the configs tiny, teacher and distilled, which write to its runs/."""
    return _write_configs(folder, trees.make_camvid(folder / "camvid", train=5, val=3), TINY, DISTILLED)


def make_detection_experiment(folder: Path) -> Path:
    """Fill a folder with a tiny BCCD tree and the configs tiny, teacher and distilled, which write to its runs/."""
    return _write_configs(folder, trees.make_bccd(folder / "bccd", train=5, val=3), DETECTION, CROSSKD)


def _write_configs(folder: Path, dataset: Path, tiny: dict[str, Any], distilled: dict[str, Any]) -> Path:
    data = {**tiny["data"], "dataset": str(dataset)}
    write(folder / "tiny.yaml", {**tiny, "runs": str(folder / "runs"), "data": data})
    write(folder / "teacher.yaml", {"base": "tiny.yaml", "name": "teacher", "seed": 1})
    write(folder / "distilled.yaml", distilled)
    return folder


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint of a run."""
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def rows(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv."""
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def scalars(run: Path) -> dict[str, list[float]]:
    """Return the curves that TensorBoard shows."""
    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    return {tag: [event.value for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def measured(run: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv without what the clock says, which must rise from row to row."""
    found = rows(run)
    seconds = [float(row.pop("seconds")) for row in found]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    return found


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def expect_same(run: Path, reference: Path) -> None:
    """Assert that a run ended as another, bit for bit: checkpoints, metrics.csv and result.json."""
    for name in ("last", "best"):
        ours, theirs = (torch.load(path / f"checkpoints/{name}.ckpt", weights_only=True) for path in (run, reference))
        for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "measured"):
            assert identical(ours[key], theirs[key]), (name, key)
    assert measured(run) == measured(reference)
    results = [json.loads((path / "result.json").read_text()) for path in (run, reference)]
    for result in results:
        del result["run"], result["seconds"], result["peak_memory"]
    assert results[0] == results[1]


def identical(left: Any, right: Any) -> bool:
    """Return whether two values are equal bit for bit: tensors in dicts and lists too, NaN equal to NaN."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(identical(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(identical, left, right))
    return left == right or (left != left and right != right)


@contextlib.contextmanager
def recorded_steps() -> Iterator[list[dict[str, Any]]]:
    """Record what each training step is given and the student's weights before it, without changing either."""
    steps: list[dict[str, Any]] = []
    step = DistillModule.training_step

    def recording(self: DistillModule, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        state = {key: value.clone() for key, value in self.distiller.student.module.state_dict().items()}
        steps.append({"image": batch["image"].clone(), "mask": batch["mask"].clone(), "student": state})
        return step(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DistillModule, "training_step", recording)
        yield steps


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let this process write no file larger than this: what a full disk does, without filling one."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


class PowerCut(RuntimeError):
    """What ends a run from outside."""


@contextlib.contextmanager
def cut(owner: Any, method: str, when: Callable[..., bool], error: type[BaseException] = PowerCut) -> Iterator[None]:
    """Make a method raise an error before it does anything, whenever ``when(self, *arguments)`` holds."""
    original = getattr(owner, method)

    def cutting(self: Any, *arguments: Any, **named: Any) -> Any:
        if when(self, *arguments):
            raise error("the power went")
        return original(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, cutting)
        yield


def cut_at(step: int) -> contextlib.AbstractContextManager[None]:
    """Make a run end with `PowerCut` when this many steps are done, before the next."""
    return cut(DistillModule, "training_step", lambda module, *_: module.global_step == step)
