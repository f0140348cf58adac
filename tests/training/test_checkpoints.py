"""Checkpoints: on a full disk the last good one stays, a damaged one is named, and the one before it is used."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import (
    cut,
    cut_at,
    expect_same,
    files_of_at_most,
    make_experiment,
    refused,
    segkd,
    train,
)

from segkd.network import Network
from segkd.training.callbacks import MetricsFile
from segkd.training.fit import Fit
from segkd.training.module import DistillModule
from segkd.training.run import Run

STEPS = ["trainer.max_steps=4", "trainer.checkpoint_every=1", "validation.every=2"]


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the uninterrupted run `whole`, and `begun`, the same without its fourth step."""
    folder = make_experiment(tmp_path_factory.mktemp("checkpoints"))
    train(folder / "tiny.yaml", "name=whole", *STEPS)
    with cut_at(3):
        segkd("train", folder / "tiny.yaml", "name=begun", *STEPS)
    return folder


@pytest.fixture
def begun(home: Path, tmp_path: Path) -> Run:
    """A copy of the run that stopped after its third step."""
    return Run(shutil.copytree(home / "runs" / "begun", tmp_path / "begun"))


def step(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["global_step"]


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path: Path, to: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(path, weights_only=True)
    torch.save(to(content) or content, path)


def with_nan(content: dict[str, Any]) -> None:
    content["state_dict"]["distiller.student.segmentation_head.0.bias"][3] = float("nan")


def zero_the_middle(path: Path) -> None:
    """As a power cut may leave a file whose blocks were not yet written: whole in length and in structure."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = bytes(4096)
    path.write_bytes(data)


def test_the_last_two_are_kept(begun: Run):
    assert [step(path) for path in (begun.last, begun.previous, begun.best)] == [3, 2, 2]
    assert sorted(path.name for path in begun.last.parent.iterdir()) == ["best.ckpt", "last.ckpt", "previous.ckpt"]


class TestAFullDisk:
    def test_leaves_the_last_good_checkpoint(self, home: Path, tmp_path: Path):
        with cut_at(1):
            segkd("train", home / "tiny.yaml", f"runs={tmp_path}", *STEPS)
        run = Run(tmp_path / "tiny")
        before = run.last.read_bytes()
        with files_of_at_most(len(before) // 2):
            outcome = segkd("train", "--resume", run.directory)
        assert outcome.status == 1
        assert outcome.err.count("\n") == 1
        text = f"segkd: {run.best} cannot be written: the disk is full or a limit is reached ("
        assert outcome.err.startswith(text)
        needed = int(outcome.err.removeprefix(text).split(" bytes needed")[0])
        assert len(before) <= needed < 1.1 * len(before)
        assert f"go on with 'segkd train --resume {run.directory}'" in outcome.err
        assert run.last.read_bytes() == before
        assert not list(tmp_path.rglob("*tmp*"))
        train("--resume", run.directory)
        expect_same(run.directory, home / "runs" / "whole")

    @pytest.mark.parametrize(
        ("file", "owner", "method"),
        [
            ("student/model.safetensors", Network, "save"),
            slow("metrics.csv", MetricsFile, "on_validation_end"),
            slow("result.json", Run, "finish"),
            ("events.out", Fit, "__call__"),
        ],
    )
    def test_of_any_file_of_a_run(
        self, home: Path, tmp_path: Path, file: str, owner: type, method: str, monkeypatch: pytest.MonkeyPatch
    ):
        original = getattr(owner, method)

        def without_room(*arguments: Any) -> Any:
            with files_of_at_most(100):
                return original(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, without_room)
            outcome = segkd("train", home / "tiny.yaml", f"runs={tmp_path}", "trainer.max_steps=2")
        run = tmp_path / "tiny"
        assert outcome.status == 1
        assert outcome.err.startswith(f"segkd: {run / file} cannot be written: the disk is full")
        assert outcome.err.endswith(f"go on with 'segkd train --resume {run}'\n")
        assert outcome.err.count("\n") == 1
        assert not list(tmp_path.rglob("*tmp*"))
        assert not (run / "student").exists() or file == "result.json"
        assert not (run / "result.json").exists()
        train("--resume", run)


class TestADamagedLast:
    @pytest.mark.parametrize(
        "damage", [halve, zero_the_middle, *map(slow, (Path.unlink, lambda path: change(path, with_nan)))]
    )
    def test_is_named_and_the_one_before_is_used(self, home: Path, begun: Run, damage: Callable[[Path], None]):
        damage(begun.last)
        outcome = train("--resume", begun.directory)
        line = next(line for line in outcome.out.splitlines() if str(begun.last) in line)
        assert "the run goes on from previous.ckpt, step 2" in line
        expect_same(begun.directory, home / "runs" / "whole")
        assert step(begun.previous) == 3

    def test_does_not_take_the_place_of_the_one_before(self, begun: Run):
        halve(begun.last)
        with cut(DistillModule, "validation_step", lambda module, *_: module.global_step == 4), files_of_at_most(1000):
            segkd("train", "--resume", begun.directory)
        assert step(begun.previous) == 2
        train("--resume", begun.directory)

    def test_nor_is_there_one_before(self, begun: Run):
        halve(begun.last)
        halve(begun.previous)
        refused(segkd("train", "--resume", begun.directory), f"{begun.previous} is not a readable weights file")
        begun.previous.unlink()
        refused(segkd("train", "--resume", begun.directory), f"{begun.last} is not a readable weights file")


class TestRefusedToGoOnFrom:
    @pytest.mark.parametrize(
        ("make", "text"),
        [
            (lambda content: [1, 2], "is no checkpoint of 'segkd train': it has no 'global_step'"),
            (lambda content: {"a": torch.zeros(1)}, "it has no 'global_step'"),
            (lambda content: content.pop("loops") and None, "it has no 'loops'"),
            (lambda content: content.update(optimizer_states=[{"state": {}}]), "is not of this run: "),
            (lambda content: content["callbacks"].pop("Cost") and None, "it has no 'callbacks.Cost.seconds'"),
            (with_nan, "'distiller.student.segmentation_head.0.bias' is not finite: 1 of 11 values are NaN"),
        ],
    )
    def test_a_last_that_is_none(self, begun: Run, make: Callable[[dict[str, Any]], Any], text: str):
        begun.previous.unlink()
        change(begun.last, make)
        refused(segkd("train", "--resume", begun.directory), str(begun.last), text)

    def test_a_last_of_another_architecture(self, begun: Run):
        config = begun.config_file.read_text()
        begun.config_file.write_text(config.replace("arch: DeepLabV3Plus", "arch: Unet"))
        refused(segkd("train", "--resume", begun.directory), str(begun.last), "is not of this DistillModule")

    @pytest.mark.parametrize("damage", [halve, lambda path: change(path, with_nan)])
    def test_a_damaged_best(self, begun: Run, damage: Callable[[Path], None]):
        damage(begun.best)
        refused(segkd("train", "--resume", begun.directory), str(begun.best), "remove best.ckpt to go on without it")
        begun.best.unlink()
        train("--resume", begun.directory)
        assert step(begun.best) == 4

    def test_a_damaged_best_of_a_run_at_its_end(self, home: Path, tmp_path: Path):
        run = Run(shutil.copytree(home / "runs" / "whole", tmp_path / "whole"))
        run.result_file.unlink()
        run.best.unlink()
        train("--resume", run.directory)
        assert step(run.best) == 4
        assert run.result()["student"] == {"step": 4, **run.result()["last"]}

    @pytest.mark.parametrize(
        "damage", [lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.write_bytes(b"\xff\0")]
    )
    def test_damaged_metrics(self, begun: Run, damage: Callable[[Path], None]):
        damage(begun.metrics)
        refused(segkd("train", "--resume", begun.directory), f"{begun.metrics} cannot be read: ")

    @pytest.mark.parametrize("text", ["{", "[]"])
    def test_a_damaged_result(self, home: Path, tmp_path: Path, text: str):
        run = Run(shutil.copytree(home / "runs" / "whole", tmp_path / "whole"))
        run.result_file.write_text(text)
        refused(segkd("train", "--resume", run.directory), str(run.result_file), "remove result.json, and 'segkd train")
        run.result_file.unlink()
        train("--resume", run.directory)
        expect_same(run.directory, home / "runs" / "whole")


def test_weights_that_became_infinite_are_not_saved(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def explode(self: DistillModule, *_: Any) -> None:
        if self.global_step == 1:
            next(self.distiller.student.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(DistillModule, "on_before_zero_grad", explode)
    outcome = segkd("train", home / "tiny.yaml", f"runs={tmp_path}", "trainer.checkpoint_every=1", "validation.every=4")
    refused(outcome, "step 2: ", "last.ckpt: 'distiller.student.encoder", "not finite", "learning rate")
    assert step(Run(tmp_path / "tiny").last) == 1
