from pathlib import Path

import numpy as np
import pytest
import torch
from experiments import refused, same, segkd, train, weights, write
from torch import nn

from segkd.data.description import read_spec
from segkd.errors import SegkdError
from segkd.segmentation.task_losses import OHEM, CrossEntropy, Dice, OfSmp, Sum, class_weights
from segkd.training.config import load_config
from segkd.training.run import changed_keys
from segkd.training.segmentation.schema import build_task_loss

OWN = """
import torch
from torch import nn


class Mine(nn.CrossEntropyLoss):
    def __init__(self, gain: float = 1.0, ignore_index: int = 0):
        super().__init__(ignore_index=ignore_index)
        self.gain = gain

    def forward(self, logits, target):
        return self.gain * super().forward(logits, target)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a loss of one's own, in a module beside the configs."""
    write(tmp_path / "own_losses.py", OWN)
    monkeypatch.syspath_prepend(tmp_path)
    return "own_losses:Mine"


class TestBuild:
    def test_one_loss_takes_the_ignored_label_of_the_data_set(self):
        loss = build_task_loss({"ohem": {"threshold": 0.5}}, ignore_index=7)
        assert isinstance(loss, OHEM)
        assert (loss.threshold, loss.ignore_index) == (0.5, 7)

    def test_several_are_summed_up(self):
        loss = build_task_loss({"cross_entropy": {"scale": 2}, "dice": {"scale": 0.5}, "focal": None})
        assert isinstance(loss, Sum)
        assert loss.scales == [2.0, 0.5]
        assert list(map(type, loss.parts)) == [CrossEntropy, Dice]

    def test_auto_weights_are_asked_for(self):
        loss = build_task_loss({"cross_entropy": {"weight": "auto"}}, class_weights=lambda: [1.0, 3.0])
        assert isinstance(loss, nn.CrossEntropyLoss)
        assert loss.weight is not None
        assert loss.weight.tolist() == [1.0, 3.0]

    def test_of_segmentation_models_pytorch(self):
        loss = build_task_loss({"smp:TverskyLoss": {"alpha": 0.3}}, ignore_index=9)
        assert isinstance(loss, OfSmp)
        assert (loss.loss.alpha, loss.loss.ignore_index, loss.loss.mode) == (0.3, 9, "multiclass")

    def test_of_ones_own(self, own: str):
        loss = build_task_loss({own: {"gain": 3.0}}, ignore_index=9)
        assert (loss.gain, loss.ignore_index) == (3.0, 9)

    def test_one_that_fails_says_so(self, own: str):
        with pytest.raises(SegkdError, match=r"'own_losses:Mine' cannot be made with .*gian"):
            build_task_loss({own: {"gian": 3.0}})


class TestConfig:
    def test_a_name_stands_for_its_defaults_and_replaces_what_a_base_says(self, experiment: Path):
        write(experiment / "base.yaml", {"base": "tiny.yaml", "task_loss": {"ohem": {"threshold": 0.5}}})
        write(experiment / "mine.yaml", {"base": "base.yaml", "task_loss": "dice"})
        assert load_config(str(experiment / "mine.yaml")).task_loss == {"dice": {}}
        assert load_config(str(experiment / "base.yaml"), ["task_loss=null"]).task_loss is None

    def test_what_differs_is_named(self, experiment: Path):
        def config(*changes: str):
            return load_config(str(experiment / "tiny.yaml"), changes)

        assert changed_keys(config("task_loss=ohem"), config("task_loss={ohem: {}}")) == []
        assert changed_keys(config(), config("task_loss=cross_entropy")) == []
        assert changed_keys(config(), config("task_loss=dice")) == ["task_loss.cross_entropy", "task_loss.dice"]


class TestRuns:
    def test_cross_entropy_by_name_is_what_a_run_learns_by_default(self, experiment: Path):
        train(experiment / "tiny.yaml")
        train(experiment / "tiny.yaml", "name=named", "task_loss=cross_entropy")
        train(experiment / "tiny.yaml", "name=other", "task_loss=focal", "distill=null")
        runs = [weights(experiment / f"runs/{name}/checkpoints/last.ckpt") for name in ("tiny", "named", "other")]
        assert same(runs[0], runs[1])
        assert not same(runs[0], runs[2])

    def test_weights_are_counted_in_the_training_masks(self, experiment: Path):
        out = train(experiment / "tiny.yaml", "trainer.max_steps=2", "task_loss={cross_entropy: {weight: auto}}").out
        spec = read_spec(experiment / "camvid/camvid.yaml")
        samples = spec.samples("train")
        counts = sum(np.bincount(samples.label(index).ravel(), minlength=256) for index in range(len(samples)))
        expected = class_weights(counts[: spec.num_classes])
        held = weights(experiment / "runs/tiny/checkpoints/last.ckpt")["distiller.task_loss.weight"]
        torch.testing.assert_close(held, torch.tensor(expected))
        assert f"class weights of the task loss: sky {expected[0]:.2f}, building {expected[1]:.2f}" in out

    def test_one_of_ones_own_trains_resumes_and_is_measured(self, experiment: Path, own: str):
        text = f"task_loss={{'{own}': {{gain: 2.0}}, dice: {{scale: 0.5}}}}"
        train(experiment / "tiny.yaml", text)
        train(experiment / "tiny.yaml", "name=short", "trainer.max_steps=2", text)
        train("--resume", experiment / "runs/short", "trainer.max_steps=4")
        assert segkd("eval", experiment / "runs/short").status == 0
        refused(segkd("train", "--resume", experiment / "runs/short", "task_loss=ohem"), "another task_loss.dice")
