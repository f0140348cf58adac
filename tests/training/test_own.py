"""Methods of the user's own, in a module beside the config: named in it, trained, resumed, told apart."""

import sys
from pathlib import Path

import pytest
import yaml
from experiments import cut_at, refused, same, segkd, train, weights, write

from segkd import registry

OWN = '''
"""A loss, a connector, a schedule and a pixel weighting."""

import torch
from torch import nn

from segkd.weighting import PixelWeights


class Attention(nn.Module):
    """Where features are strong; its scale is learnt with the student."""

    def __init__(self, power: float = 2.0):
        super().__init__()
        self.power, self.scale = power, nn.Parameter(torch.ones(()))

    def forward(self, student, teacher, target=None):
        s, t = (x.abs().pow(self.power).mean(1).flatten(1).softmax(1) for x in (student, teacher))
        return self.scale * (s - t).abs().sum(1).mean()


def on_labelled(student, teacher, target, ignore_index: int = 255):
    """A function, of logits."""
    labelled = (target != ignore_index)[:, None, ::4, ::4]
    size = labelled.shape[-2:]
    s, t = (nn.functional.interpolate(x, size) for x in (student, teacher))
    return ((s - t).square() * labelled).mean()


def wide(student_channels, teacher_channels, kernel: int = 3):
    return nn.Conv2d(student_channels, teacher_channels, kernel, padding=kernel // 2)


def late(progress, begin: float = 0.25):
    return 1.0 if progress >= begin else 0.5


class Confident(nn.Module):
    """Weights the pixels that the teacher is sure of."""

    def __init__(self, floor: float = 0.0, ignore_index: int = 255):
        super().__init__()
        self.floor, self.ignore_index = floor, ignore_index

    def forward(self, student, teacher, auxiliary, target, progress):
        sure = nn.functional.interpolate(teacher.softmax(1).amax(1, keepdim=True), target.shape[-2:])[:, 0]
        weights = sure.clamp(min=self.floor) * (target != self.ignore_index)
        return PixelWeights(weights, weights / weights.numel())
'''
DISTILL = {
    "terms": {
        "deep": {
            "loss": "own_methods:Attention",
            "power": 3.0,
            "student": "encoder",
            "teacher": "encoder",
        },
        "mine": {"loss": "own_methods:on_labelled", "ignore_index": 11, "weight": 0.1},
        "wide": {
            "loss": "pkd",
            "student": "decoder",
            "teacher": "decoder",
            "connector": {"own_methods:wide": {"kernel": 1}},
        },
        "two": {"loss": "pkd", "student": "decoder", "teacher": "decoder", "connector": {"mlp": {"hidden": 4}}},
    },
    "schedule": {"mine": {"own_methods:late": {"begin": 0.5}}, "task": "own_methods:late"},
    "pixel_weighting": {"own_methods:Confident": {"floor": 0.1}},
}


@pytest.fixture
def place(experiment: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of own.yaml and own_methods.py, which is not the working directory."""
    write(experiment / "deep/own_methods.py", OWN)
    teacher = {"config": "../teacher.yaml", "overrides": {"trainer": {"max_steps": 1}}}
    base = {"base": "../tiny.yaml", "name": "own", "teacher": teacher}
    write(experiment / "deep/own.yaml", {**base, "distill": DISTILL})
    elsewhere = experiment / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return experiment / "deep"


def test_are_trained_and_resumed_to_the_bit(place: Path, monkeypatch: pytest.MonkeyPatch):
    runs = place.parent / "runs"
    train(place / "own.yaml")
    whole = weights(runs / "own/checkpoints/last.ckpt")
    names = [name.removeprefix("distiller.") for name in whole]
    trained = {"losses.deep.scale", "connectors.wide.weight", "connectors.two.0.weight", "connectors.two.2.weight"}
    assert trained <= set(names)
    assert whole["distiller.losses.deep.scale"] != 1
    with (runs / "own/metrics.csv").open() as file:
        assert len(list(file)) == 3
    # Stopped, and gone on with from another folder: the run says where the module lies.
    with cut_at(2):
        assert segkd("train", place / "own.yaml", "name=cut").status == 1
    kept = yaml.safe_load((runs / "cut/config.yaml").read_text())
    assert str(place) in kept["python_path"]
    assert kept["distill"]["terms"]["deep"]["options"] == {"power": 3.0}
    del sys.modules["own_methods"]
    monkeypatch.setattr(registry, "_folders", [])
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(place)])
    train("--resume", runs / "cut")
    assert same(weights(runs / "cut/checkpoints/last.ckpt"), whole)


def test_only_what_trains_imports_them(place: Path):
    """A run's directory may be a stranger's: to measure its student runs none of the code that it names."""
    train(place / "own.yaml", "trainer.max_steps=1")
    del sys.modules["own_methods"]
    (place / "own_methods.py").write_text("raise RuntimeError('imported')\n")
    outcome = segkd("eval", place.parent / "runs/own")
    assert outcome.status == 0, outcome.err
    assert "own_methods" not in sys.modules
    refused(segkd("train", place / "own.yaml", "name=other"), "distill.terms.deep", "RuntimeError: imported")


def test_folders_that_the_config_names_a_schedule_of_several_terms_and_the_working_directory(place: Path):
    Path("here_methods.py").write_text(
        "def zero(student, teacher, target, gain: float = 1.0):\n    return 0 * student.sum()\n\n\n"
        "def half(progress):\n    return 0.5\n\n\n"
        "class Halves(dict):\n    def __init__(self, of):\n        super().__init__({name: half for name in of})\n"
    )
    (place / "src").mkdir()
    (place / "own_methods.py").rename(place / "src/own_methods.py")
    refused(segkd("train", place / "own.yaml"), "there is no module 'own_methods'", str(place))
    write(place / "src.yaml", {"base": "own.yaml", "python_path": ["src"]})
    changes = ["distill.terms.zero={loss: here_methods:zero, gain: 2}", "trainer.max_steps=1"]
    several = "distill.schedule={here_methods:Halves: {of: [task, %s]}}"
    train(place / "src.yaml", *changes, several % "zero")
    refused(
        segkd("train", place / "src.yaml", *changes, several % "zreo", "name=other"),
        "the schedule names no term: 'zreo', did you mean 'zero'?",
    )
    refused(
        segkd("train", place / "src.yaml", "distill.schedule=own_methods:late", "name=other"),
        "distill.schedule: the schedule 'own_methods:late' is one term's: write it after the term's name",
    )
