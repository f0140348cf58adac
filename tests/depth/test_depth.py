"""A task of one's own, from `segkd train` to `eval`: nothing of it is in the package."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiments import refused, segkd, train, write
from PIL import Image

TINY: dict[str, Any] = {
    "task": "depth.task:DepthTask",
    "name": "plain",
    "data": {"dataset": "scenes.yaml", "batch_size": 2, "workers": 0},
    "student": {
        "arch": "Unet",
        "encoder": "tu-test_resnet",
        "options": {"encoder_depth": 3, "decoder_channels": [32, 16, 16]},
    },
    "optimizer": {"name": "adamw", "lr": 0.01},
    "validation": {"every": 5, "batch_size": 2, "pictures": 1},
    "trainer": {"max_steps": 15, "threads": 1, "accelerator": "cpu"},
}


@pytest.fixture(scope="module")
def depth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("depth")
    splits = {"train": {"count": 8, "first": 0}, "val": {"count": 4, "first": 1000}}
    scenes = {
        "name": "scenes",
        "format": "depth.task:SceneSpec",
        "splits": splits,
        "classes": [{"name": "depth", "color": [255, 255, 255]}],
    }
    write(folder / "scenes.yaml", scenes)
    write(folder / "plain.yaml", {**TINY, "runs": str(folder / "runs")})
    teach = {"teacher": {"config": "plain.yaml"}, "distill": {"terms": {"l1": {"loss": "depth.task:L1"}}}}
    write(folder / "distilled.yaml", {"base": "plain.yaml", "name": "distilled", **teach})
    return folder


class TestDepth:
    def test_trains_and_measures(self, depth: Path):
        outcome = train(depth / "distilled.yaml")
        assert "the teacher plain is trained first" in outcome.out
        rows = [line.split() for line in outcome.out.splitlines() if line.startswith("RMSE, m")]
        assert len(rows) == 1
        assert len(rows[0]) == 4
        result = json.loads((depth / "runs/distilled/result.json").read_text())
        assert result["student"].keys() == {"step", "rmse"}
        measured = json.loads((depth / "runs/plain/result.json").read_text())
        assert result["teacher"] == {"rmse": measured["student"]["rmse"]}

    def test_the_best_is_the_lowest(self, depth: Path):
        result = json.loads((depth / "runs/plain/result.json").read_text())
        rows = (depth / "runs/plain/metrics.csv").read_text().splitlines()
        errors = [float(row.split(",")[2]) for row in rows[1:]]
        assert len(errors) == 3
        assert result["student"]["rmse"] == pytest.approx(min(errors), abs=1e-6)
        assert errors[-1] < errors[0]

    def test_eval(self, depth: Path):
        outcome = segkd("eval", depth / "runs/distilled")
        assert outcome.status == 0
        assert [line.split()[0] for line in outcome.out.splitlines()] == ["val", "RMSE,"]

    def test_predict_writes_maps_and_pictures_of_them(self, depth: Path, tmp_path: Path):
        run, photo = depth / "runs/distilled", tmp_path / "photo.png"
        Image.fromarray(np.full((60, 90, 3), 128, dtype=np.uint8)).save(photo)
        outcome = segkd("predict", run, photo, "--out", tmp_path / "found")
        assert outcome.status == 0, outcome.err
        found = np.load(tmp_path / "found/maps/photo.npy")
        assert (found.shape, found.dtype) == ((1, 60, 90), np.float32)
        assert Image.open(tmp_path / "found/overlays/photo.jpg").size == (90, 60)
        refused(segkd("predict", run, photo, "--out", tmp_path / "other", "--flip"), "--flip", "task of your own")

    def test_export(self, depth: Path):
        outcome = segkd("export", depth / "runs/distilled")
        assert outcome.status == 0, outcome.err
        assert (depth / "runs/distilled/export/student.onnx").is_file()

    def test_samples(self, depth: Path, tmp_path: Path):
        outcome = segkd("data", "show", depth / "plain.yaml", "--out", tmp_path / "a.png")
        assert outcome.status == 0
        assert (tmp_path / "a.png").is_file()


def test_a_task_that_is_none(depth: Path):
    refused(segkd("train", depth / "plain.yaml", "task=depth.task:L1", "name=x"), "task", "depth.task:L1", "Task")
    refused(segkd("train", depth / "plain.yaml", "task=depth.task:Deep", "name=x"), "Deep", "DepthTask")
