"""Signals: the step is finished and written, the status says which signal, and resuming gives the uninterrupted run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import Outcome, expect_same, make_experiment, same, segkd, train, weights

from segkd.teachers import Stored
from segkd.training.module import DistillModule
from segkd.training.run import Run
from segkd.training.teacher import TeacherOf

STEPS = ["trainer.max_steps=5", "validation.every=2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the uninterrupted run `whole` of the distilled student, and its teacher's."""
    folder = make_experiment(tmp_path_factory.mktemp("whole"))
    train(folder / "distilled.yaml", "name=whole", *STEPS)
    return folder


def interrupted(number: int, owner: Any, method: str, step: int | None, *arguments: object) -> Outcome:
    """Run the command line; a signal comes when a method is first called, at a step if it is the module's."""
    original, sent = getattr(owner, method), []

    def signalled(self: Any, *given: Any, **named: Any) -> Any:
        if not sent and (step is None or self.global_step == step):
            sent.append(number)
            os.kill(os.getpid(), number)
        return original(self, *given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, method, signalled)
        return segkd(*arguments)


def way_on(outcome: Outcome, number: int, run: Path) -> None:
    assert outcome.status == 128 + number, outcome
    name = signal.Signals(number).name
    assert outcome.err == f"segkd: interrupted by {name}: go on with 'segkd train --resume {run}'\n"
    assert not (run / "result.json").exists()


PLACES = {
    "in a step": (DistillModule, "training_step", 2, 3),
    "in a step that is validated": (DistillModule, "training_step", 1, 2),
    "in a validation": (DistillModule, "validation_step", 4, 4),
    "in the last step": (DistillModule, "training_step", 4, 5),
    "in the last validation": (DistillModule, "validation_step", 5, 5),
    "when the result is written": (Run, "finish", None, 5),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_resumed_run_is_the_uninterrupted_one(whole: Path, place: str):
    owner, method, at, written = PLACES[place]
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    number = numbers[list(PLACES).index(place) % 3]
    run = whole / "runs" / place.replace(" ", "_")
    before = [signal.getsignal(each) for each in numbers]
    outcome = interrupted(number, owner, method, at, "train", whole / "distilled.yaml", f"name={run.name}", *STEPS)
    assert [signal.getsignal(each) for each in numbers] == before
    way_on(outcome, number, run)
    assert torch.load(Run(run).last, weights_only=True)["global_step"] == written
    train("--resume", run)
    expect_same(run, whole / "runs" / "whole")


def test_while_a_teacher_is_stored_it_ends_with_the_batch_and_goes_on_with_the_rest(whole: Path):
    store = [f"teacher.store.folder={whole / 'kept'}", "data.views=2", "data.view_seed=5"]
    train(whole / "distilled.yaml", "name=stored", *store, *STEPS)
    (there,) = (whole / "kept").iterdir()
    files = {*there.rglob("*.safetensors")}
    shutil.rmtree(there)
    run = whole / "runs/cut"
    outcome = interrupted(
        signal.SIGTERM, Stored, "keep", None, "train", whole / "distilled.yaml", "name=cut", *store, *STEPS
    )
    way_on(outcome, signal.SIGTERM, run)
    assert not Run(run).last.exists()
    assert 0 < len({*there.rglob("*.safetensors")}) < len(files)
    train("--resume", run)
    assert {*there.rglob("*.safetensors")} == files
    assert same(*(weights(Run(whole / "runs" / name).last) for name in ("cut", "stored")))


def test_several_times_in_one_run_and_within_an_accumulated_step(whole: Path):
    # In a validation averages are in the weights' place, which is not what training goes on with.
    options = [*STEPS, "trainer.accumulate=2", "trainer.checkpoint_every=1", "trainer.ema=0.9"]
    train(whole / "distilled.yaml", "name=accumulated", *options)
    run = whole / "runs" / "often"
    command: list[Any] = ["train", whole / "distilled.yaml", "name=often", *options]
    for method, step in (("training_step", 0), ("training_step", 1), ("validation_step", 2), ("validation_step", 2)):
        way_on(interrupted(signal.SIGTERM, DistillModule, method, step, *command), signal.SIGTERM, run)
        command = ["train", "--resume", run]
    train("--resume", run)
    expect_same(run, whole / "runs" / "accumulated")


def test_while_the_teacher_is_trained(whole: Path):
    names = ["teacher.overrides.name=stopped", "name=of_stopped", "trainer.max_steps=1"]
    command = ["train", whole / "distilled.yaml", *names]
    outcome = interrupted(signal.SIGTERM, DistillModule, "training_step", 2, *command)
    assert (outcome.status, outcome.err) == (143, "segkd: interrupted by SIGTERM: the same command goes on\n")
    assert not (whole / "runs" / "of_stopped").exists()
    assert torch.load(whole / "runs/stopped/checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert "the teacher stopped is resumed" in train(*command[1:]).out
    expect_same(whole / "runs" / "stopped", whole / "runs" / "teacher")


def test_before_anything_was_begun(whole: Path, monkeypatch: pytest.MonkeyPatch):
    build = TeacherOf.__init__

    def signalled(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGHUP)
        return build(*arguments)

    monkeypatch.setattr(TeacherOf, "__init__", signalled)
    outcome = segkd("train", whole / "distilled.yaml", "name=early")
    assert (outcome.status, outcome.err) == (129, "segkd: interrupted by SIGHUP: the same command goes on\n")
    assert not (whole / "runs" / "early").exists()


def test_one_that_is_ignored_stays_so(whole: Path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        outcome = interrupted(
            signal.SIGHUP, DistillModule, "training_step", 1, "train", whole / "tiny.yaml", "name=nohup", *STEPS
        )
    finally:
        signal.signal(signal.SIGHUP, before)
    assert outcome.status == 0


@pytest.mark.slow
class TestProcesses:
    def begin(self, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "segkd.cli", "train", *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(self, file: Path, process: subprocess.Popen) -> None:
        deadline = time.monotonic() + 200
        while not file.is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def test_a_second_ends_at_once(self, whole: Path):
        run = Run(whole / "runs" / "twice")
        options = ["name=twice", "trainer.max_steps=100000", "trainer.checkpoint_every=1", "trainer.accumulate=500"]
        process = self.begin(str(whole / "tiny.yaml"), *options)
        self.wait_for(run.config_file, process)
        time.sleep(3)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == -signal.SIGINT
        assert not run.last.exists()

    def test_to_one_of_two_processes(self, whole: Path, tmp_path: Path):
        # It comes while the first process writes, when the two have agreed to go on.
        script = tmp_path / "signalled.py"
        script.write_text(
            "import os, signal\n"
            "from segkd.cli import main\n"
            "from segkd.training.checkpoints import Checkpoints\n"
            "write = Checkpoints._write\n"
            "def signalled(*arguments):\n"
            "    Checkpoints._write = write\n"
            "    write(*arguments)\n"
            "    os.kill(os.getpid(), signal.SIGTERM)\n"
            "Checkpoints._write = signalled\n"
            "main()\n"
        )
        run = Run(whole / "runs" / "two")
        options = ["name=two", "trainer.devices=2", "trainer.strategy=ddp", "trainer.max_steps=20"]
        command = [sys.executable, script, "train", whole / "tiny.yaml", *options, "trainer.checkpoint_every=1"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100)
        assert done.returncode == 143, done
        assert done.stderr == f"segkd: interrupted by SIGTERM: go on with 'segkd train --resume {run.directory}'\n"
