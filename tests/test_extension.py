"""What it costs to add something: one file outside of the package, named in a config, from train to export.

Each of these is in a module beside the config, and nothing of it is in the package. A task of one's own is in
tests/depth.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from experiments import make_detection_experiment, make_experiment, refused, segkd, train, write
from PIL import Image

METHODS = '''
"""A loss on maps, a pixel weighting, a schedule, a connector and a task loss."""

import torch.nn.functional as F
from torch import nn


def squares(student, teacher, target=None, power: float = 2.0):
    return (student - teacher).abs().pow(power).mean()


class Sure(nn.Module):
    """Weighs each pixel by how sure the teacher is of it."""

    def forward(self, student, teacher, auxiliary, target, progress):
        return F.interpolate(teacher.softmax(1).amax(1, keepdim=True), target.shape[-2:])[:, 0]


def fade(progress, least: float = 0.5):
    return max(1 - progress, least)


def narrow(student_channels, teacher_channels):
    return nn.Conv2d(student_channels, teacher_channels, 1)


class Doubled(nn.CrossEntropyLoss):
    """Twice the cross-entropy."""

    def __init__(self, ignore_index: int = 255):
        super().__init__(ignore_index=ignore_index)

    def forward(self, logits, target):
        return 2 * super().forward(logits, target)
'''
HEADS = '''
"""A method on the predictions of detectors' heads, and one on their FPN maps."""

from torch import nn


class Scores(nn.Module):
    reads = "head"

    def forward(self, student, teacher, target):
        s, t = (output.head.foreground(output.predictions).sigmoid() for output in (student, teacher))
        return (s - t).square().mean()


def levels(student, teacher, target=None):
    return (student - teacher).square().mean()
'''
MODELS = '''
"""A family of models."""

from torch import nn

from segkd.models.family import Built, Family, ModelBlock
from segkd.network import Preprocess


class Width(ModelBlock):
    width: int = 8


class Stripes(Family):
    """Two convolutions at a quarter of the size."""

    title = "two convolutions"
    block = Width
    kept = ("width",)

    @classmethod
    def build(cls, block, classes, weights=True):
        layers = [nn.Conv2d(3, block.width, 3, 4, 1), nn.ReLU(), nn.Conv2d(block.width, len(classes), 1)]
        halves = Preprocess((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        return Built(nn.Sequential(*layers), halves, settings={"width": block.width})


def make(width: int = 4, classes: int = 2):
    return nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.ReLU(), nn.Conv2d(width, classes, 1))
'''
FORMATS = '''
"""Masks as text files of numbers."""

import numpy as np

from segkd.data.formats.masks import MaskFiles, Masks


class Numbers(Masks):
    def find(self, split, base, masks=False):
        return NumberFiles(self, split, super().find(split, base).pairs)


class NumberFiles(MaskFiles):
    def read_mask(self, path):
        return np.loadtxt(path, dtype=np.uint8)
'''
SHORT = ["trainer.max_steps=2", "validation.every=1"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    make_experiment(tmp_path)
    write(tmp_path / "ext_methods.py", METHODS)
    write(tmp_path / "ext_models.py", MODELS)
    write(tmp_path / "ext_formats.py", FORMATS)
    return tmp_path


def ships(place: Path, name: str, *changes: str) -> dict[str, Any]:
    """Train a config, then measure, use and export what came of it; return the result."""
    run = place / "runs" / name
    train(place / f"{name}.yaml", *SHORT, *changes)
    measured = segkd("eval", run)
    assert measured.status == 0, measured.err
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    label, *values = next(line.split() for line in measured.out.splitlines() if line.startswith(("mIoU", "AP ")))
    assert values[-1] == f"{100 * result['student'][{'mIoU': 'miou', 'AP': 'ap'}[label]]:.2f}"
    picture = place / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(picture)
    for command in (("predict", run, picture, "--out", place / "found" / name), ("export", run)):
        outcome = segkd(*command)
        assert outcome.status == 0, outcome.err
    assert (run / "export/student.onnx").is_file()
    return result


def test_a_loss_a_weighting_a_schedule_a_connector_and_a_task_loss(place: Path):
    distill = {
        "terms": {
            "mine": {"loss": "ext_methods:squares", "power": 1.5, "weight": 0.1},
            "deep": {
                "loss": "cwd",
                "student": "decoder",
                "teacher": "decoder",
                "connector": "ext_methods:narrow",
            },
        },
        "schedule": {"mine": {"ext_methods:fade": {"least": 0.25}}},
        "pixel_weighting": "ext_methods:Sure",
    }
    write(
        place / "methods.yaml",
        {
            "base": "tiny.yaml",
            "name": "methods",
            "teacher": {"config": "teacher.yaml", "overrides": {"trainer": {"max_steps": 1}}},
            "task_loss": "ext_methods:Doubled",
            "distill": distill,
        },
    )
    assert ships(place, "methods")["teacher"]


def test_a_method_on_the_head_and_one_on_the_fpn_of_detectors(tmp_path: Path):
    make_detection_experiment(tmp_path)
    write(tmp_path / "ext_heads.py", HEADS)
    terms = {
        "scores": {"loss": "ext_heads:Scores"},
        "levels": {"loss": "ext_heads:levels", "student": "fpn", "teacher": "fpn", "weight": 0.1},
    }
    teacher = {"config": "teacher.yaml", "overrides": {"trainer": {"max_steps": 1}}}
    write(
        tmp_path / "heads.yaml",
        {"base": "tiny.yaml", "name": "heads", "teacher": teacher, "distill": {"terms": terms}},
    )
    assert ships(tmp_path, "heads")["teacher"]


def plain(place: Path, dataset: str, student: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a student of one's own, without its name."""
    return {
        "data": {"dataset": dataset, "crop": [64, 96], "batch_size": 2, "workers": 0},
        "student": student,
        "runs": str(place / "runs"),
        "optimizer": {"name": "adamw", "lr": 0.001},
        "trainer": {"threads": 1, "accelerator": "cpu"},
    }


@pytest.mark.parametrize(
    "student",
    [{"family": "ext_models:Stripes", "width": 6}, {"build": "ext_models:make", "options": {"width": 5}}],
    ids=["family", "builder"],
)
def test_a_model_as_student_and_as_teacher(place: Path, student: dict[str, Any]):
    write(place / "big.yaml", {**plain(place, "camvid/camvid.yaml", student), "name": "big"})
    terms = {"kd": {"loss": "pixel_kd"}}
    write(
        place / "small.yaml",
        {"base": "big.yaml", "name": "small", "teacher": {"config": "big.yaml"}, "distill": {"terms": terms}},
    )
    assert ships(place, "small", "teacher.overrides.trainer.max_steps=1")["teacher"]


def test_a_format_of_data(place: Path):
    description = yaml.safe_load((place / "camvid/camvid.yaml").read_text())
    for split in description["splits"].values():
        for mask in place.glob(f"camvid/{split['masks']}"):
            ids = np.asarray(Image.open(mask))
            np.savetxt(mask.with_suffix(".txt"), np.where(ids < 11, ids, 255), fmt="%d")
            mask.unlink()
        split["masks"] = split["masks"].replace(".png", ".txt")
    write(place / "numbers.yaml", {**description, "root": str(place / "camvid"), "format": "ext_formats:Numbers"})
    student = {"family": "ext_models:Stripes"}  # which is exported sooner than one of the package's
    write(place / "plain.yaml", {**plain(place, "numbers.yaml", student), "name": "plain"})
    assert ships(place, "plain")["classes"] == [each["name"] for each in description["classes"]]
    text = sorted(place.glob("camvid/trainannot/*.txt"))[0]
    np.savetxt(text, np.full((64, 96), 77), fmt="%d")
    refused(segkd("train", place / "plain.yaml", "name=wrong"), str(text), "id 77", "11 classes", "ignore_index 255")
