"""Batch norms estimated anew in float32: what they become, that weights stay, and that this is what is measured."""

import json
from pathlib import Path

import pytest
import torch
from experiments import make_detection_experiment, make_experiment, same, segkd, start, train, weights
from safetensors.torch import load_file
from torch import nn

from segkd.network import Network
from segkd.training.measure import evaluate
from segkd.training.recalibrate import recalibrate
from segkd.training.run import Run
from segkd.training.tasks import task_of

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = make_experiment(tmp_path_factory.mktemp("recalibrated"))
    train(folder / "tiny.yaml", "trainer.precision=bf16-mixed", "trainer.recalibrate=3")
    return Run(folder / "runs/tiny")


def test_weights_stay_and_statistics_are_others(run: Run):
    saved, prefix = load_file(run.student / "model.safetensors"), "distiller.student."
    best = {key.removeprefix(prefix): value for key, value in weights(run.best).items() if key.startswith(prefix)}
    for key, value in saved.items():
        is_statistic = key.rpartition(".")[2] in STATISTICS
        assert is_statistic or torch.equal(value, best[key]), key
    means = [key for key in saved if key.endswith("running_mean")]
    assert means
    assert all(not torch.equal(saved[key], best[key]) for key in means)
    assert all(int(saved[key]) == 3 for key in saved if key.endswith("num_batches_tracked"))


def test_what_the_run_says_is_what_eval_measures(run: Run):
    said = json.loads((run.directory / "result.json").read_text())["student"]
    assert {key: said[key] for key in ("miou", "iou")} == {
        key: evaluate(str(run.directory), [])["student"][key] for key in ("miou", "iou")
    }
    assert "step" in said
    assert "the student is measured in float32" not in (outcome := segkd("eval", run.directory)).out + outcome.err


def test_means_are_those_of_the_batches_in_float32(run: Run):
    task = task_of(run.config())
    network = task.load_student(run.student)
    first = next(part for part in network.modules() if isinstance(part, nn.BatchNorm2d))
    seen: list[torch.Tensor] = []
    hook = first.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    recalibrate(task, network, task.train_set(), 2)
    hook.remove()
    assert [x.dtype for x in seen] == [torch.float32] * 2
    expected = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    torch.testing.assert_close(first.running_mean, expected)
    assert first.momentum is not None
    assert not any(part.training for part in network.modules())


def test_in_another_memory_layout_and_resumed_at_its_end_it_is_the_same(tmp_path: Path):
    folder = make_experiment(tmp_path)
    options = ("trainer.channels_last=true", "trainer.recalibrate=2", "teacher.overrides.trainer.max_steps=1")
    train(folder / "distilled.yaml", *options, "trainer.max_steps=2")
    run = Run(folder / "runs/distilled")
    whole, saved = run.result(), load_file(run.student / "model.safetensors")
    measured = evaluate(str(run.directory), [])["student"]
    assert {key: whole["student"][key] for key in measured} == measured
    run.result_file.unlink()
    train("--resume", run.directory)
    assert {key: run.result()[key] for key in ("student", "teacher")} == {
        key: whole[key] for key in ("student", "teacher")
    }
    assert same(load_file(run.student / "model.safetensors"), saved)


class Kept(Network):
    def train(self, mode: bool = True) -> "Kept":
        super().train(mode)
        self.module.encoder.eval()
        return self


def test_norms_that_a_model_keeps_in_eval_mode_stay_as_they_are(run: Run):
    task = task_of(run.config())
    network = task.load_student(run.student)
    network.__class__ = Kept
    before = {key: value.clone() for key, value in network.module.state_dict().items()}
    recalibrate(task, network, task.train_set(), 1)
    changed = {key for key, value in network.module.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert not [key for key in changed if key.startswith("encoder")]


def test_a_student_without_batch_norms_is_told(tmp_path: Path):
    folder = make_experiment(tmp_path)
    norms = ("student.arch=FPN", "student.encoder=tu-convnext_atto")
    said = train(folder / "tiny.yaml", *norms, "trainer.recalibrate=1", "trainer.max_steps=1").out
    assert said.count("trainer.recalibrate: the student has no batch norms to estimate") == 1


def test_a_detector(tmp_path: Path):
    folder = make_detection_experiment(tmp_path)
    train(folder / "tiny.yaml", "trainer.recalibrate=1")
    run = Run(folder / "runs/tiny")
    said = json.loads((run.directory / "result.json").read_text())["student"]
    assert said["ap"] == evaluate(str(run.directory), [])["student"]["ap"]


@pytest.mark.slow
def test_after_training_in_two_processes(tmp_path: Path):
    folder = make_experiment(tmp_path)
    ddp = ("trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp")
    with start("train", folder / "tiny.yaml", *ddp, "trainer.recalibrate=2") as training:
        printed, _ = training.communicate(timeout=600)
    assert training.returncode == 0, printed
    said = json.loads((folder / "runs/tiny/result.json").read_text())
    assert said["environment"]["processes"] == 2
    assert said["student"]["miou"] == evaluate(str(folder / "runs/tiny"), [])["student"]["miou"]
