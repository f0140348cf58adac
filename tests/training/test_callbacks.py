"""Stopping and resuming: whatever stops a run, resuming it gives what an uninterrupted run gives."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from experiments import cut, expect_same, make_experiment, refused, segkd, train, weights
from rich.console import Console

from segkd.training.callbacks import Watch
from segkd.training.module import DistillModule
from segkd.training.run import Run

STEPS = ["trainer.max_steps=5", "validation.every=2"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the uninterrupted run `whole` of the distilled student, and its teacher's."""
    folder = make_experiment(tmp_path_factory.mktemp("whole"))
    train(folder / "distilled.yaml", "name=whole", *STEPS)
    train(folder / "distilled.yaml", "name=accumulated", *STEPS, "trainer.accumulate=2")
    return folder


CUTS = {
    "before the first checkpoint": (DistillModule, "training_step", lambda module, *_: module.global_step == 1),
    "between two validations": (DistillModule, "training_step", lambda module, *_: module.global_step == 3),
    "within a validation": (DistillModule, "validation_step", lambda module, *_: module.global_step == 4),
    "after a validation": (DistillModule, "training_step", lambda module, *_: module.global_step == 4),
    "within the last validation": (DistillModule, "validation_step", lambda module, *_: module.global_step == 5),
    "after the last validation": (Run, "finish", lambda run, _: True),
}


@pytest.mark.parametrize("options", [[], ["trainer.checkpoint_every=1", "trainer.accumulate=2"]], ids=str)
@pytest.mark.parametrize("place", CUTS)
def test_a_resumed_run_is_the_uninterrupted_one(
    whole: Path, place: str, options: list[str], request: pytest.FixtureRequest
):
    name = f"cut{abs(hash(request.node.name))}"
    with cut(*CUTS[place]):
        stopped = segkd("train", whole / "distilled.yaml", f"name={name}", *STEPS, *options)
    assert (stopped.status, stopped.err) == (1, "segkd: PowerCut: the power went (--debug shows where)\n")
    outcome = train("--resume", whole / "runs" / name)
    assert "PowerCut" not in outcome.err
    expect_same(
        whole / "runs" / name, whole / "runs" / ("accumulated" if "trainer.accumulate=2" in options else "whole")
    )


def test_laid_out_pixel_by_pixel(whole: Path):
    options = [*STEPS, "trainer.channels_last=true", "trainer.precision=bf16-mixed"]
    train(whole / "distilled.yaml", "name=laid_out", *options)
    with cut(*CUTS["between two validations"]):
        segkd("train", whole / "distilled.yaml", "name=laid_out_cut", *options)
    train("--resume", whole / "runs/laid_out_cut")
    expect_same(whole / "runs/laid_out_cut", whole / "runs/laid_out")
    found = weights(whole / "runs/laid_out/checkpoints/last.ckpt")
    weight = next(each for each in found.values() if each.ndim == 4 and min(each.shape) > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_with_a_worker_process(whole: Path):
    with cut(*CUTS["between two validations"]):
        segkd("train", whole / "distilled.yaml", "name=worker", *STEPS, "data.workers=1", "trainer.checkpoint_every=1")
    train("--resume", whole / "runs/worker")
    expect_same(whole / "runs/worker", whole / "runs/whole")


def test_killed_and_resumed_in_processes_of_their_own(whole: Path):
    run = whole / "runs/killed"
    command = [sys.executable, "-m", "segkd.cli", "train"]
    arguments = [str(whole / "distilled.yaml"), "name=killed", "trainer.max_steps=2000", "validation.every=2"]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (run / "checkpoints/last.ckpt").is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (run / "student").exists()
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] >= 2
    refused(segkd("train", *arguments), "not finished", f"segkd train --resume {run}")


def test_a_teacher_that_was_stopped_is_resumed(whole: Path):
    names = ["teacher.overrides.name=cut_teacher", "name=of_cut_teacher", "trainer.max_steps=1"]
    with cut(*CUTS["between two validations"]):
        assert segkd("train", whole / "distilled.yaml", *names).status == 1
    assert not (whole / "runs/of_cut_teacher").exists()
    outcome = train(whole / "distilled.yaml", *names)
    assert "the teacher cut_teacher is resumed" in outcome.out
    expect_same(whole / "runs/cut_teacher", whole / "runs/teacher")


def test_what_cannot_be_resumed(whole: Path, tmp_path: Path):
    refused(segkd("train", "--resume", whole / "runs/whole"), "is finished")
    refused(segkd("train", "--resume", tmp_path), f"{tmp_path} is no run directory", "config.yaml")
    refused(segkd("train", "--resume", tmp_path / "nowhere"), "there is no run", "nowhere")
    refused(segkd("train", whole / "tiny.yaml", "--resume", whole / "runs/whole"), "not both")


def test_the_bar_shows_where_the_run_stands(whole: Path, monkeypatch: pytest.MonkeyPatch):
    from segkd.commands import train as command

    console = Console(force_terminal=True, width=120, record=True)
    monkeypatch.setattr(command, "console", console)
    train(whole / "tiny.yaml", "name=bar")
    shown = console.export_text()
    for text in ("bar ", "4/4", "loss ", "mIoU ", "images/s", "0:00:00"):
        assert text in shown


def test_the_bar_keeps_the_time_left_at_80_columns(whole: Path, monkeypatch: pytest.MonkeyPatch):
    from segkd.commands import train as command

    console = Console(force_terminal=True, width=80, record=True)
    monkeypatch.setattr(command, "console", console)
    train(whole / "tiny.yaml", "name=a_run_whose_name_alone_would_take_most_of_a_line_of_80_columns")
    bars = [bar for bar in re.split(r"\s*(?=a_run)", console.export_text()) if "4/4" in bar]
    assert bars
    for bar in bars:
        assert len(bar.splitlines()[0]) <= 80
        assert re.match(r"a_run_.*… ━+ 4/4 0:00:00 left loss \d\.\d{3} .*…", bar), bar


def test_a_log_shows_that_something_moves_before_the_first_validation(whole: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Watch, "EVERY", 0.0)
    lines = train(whole / "tiny.yaml", "name=log").out.splitlines()
    assert "log: training on cpu, 5 images, 4 steps, validation every 2" in lines
    assert re.fullmatch(r"log: step 1/4  loss \d\.\d{3}  mIoU -  - images/s", lines[1])
    assert re.fullmatch(r"log: step 2/4  loss \d\.\d{3}  mIoU -  .* images/s  0:00:0\d left", lines[2])
    with cut(*CUTS["between two validations"]):
        segkd("train", whole / "tiny.yaml", "name=log_cut")
    outcome = train("--resume", whole / "runs/log_cut")
    assert "log_cut: training on cpu, 5 images, from step 2 to 4, validation every 2" in outcome.out


def test_after_resuming_a_loss_that_is_not_logged_yet_is_not_shown_as_one(whole: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Watch, "EVERY", 0.0)
    with cut(*CUTS["between two validations"]):
        segkd("train", whole / "tiny.yaml", "name=not_logged", "trainer.log_every=10")
    outcome = train("--resume", whole / "runs/not_logged")
    assert "not_logged: step 3/4  loss -  mIoU " in outcome.out
    assert "nan" not in outcome.out


def test_lines_between_validations_are_half_a_minute_apart(whole: Path):
    lines = train(whole / "tiny.yaml", "name=quick", "validation.every=4").out.splitlines()
    assert [line.split()[2] for line in lines if "quick: step" in line] == ["1/4", "4/4"]
