"""A teacher that sees something else than the student: another image, or one without jitter."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from experiments import make_experiment, same, train, weights
from PIL import Image


def test_a_teacher_learns_from_one_input_and_teaches_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    description = tmp_path / "camvid/camvid.yaml"
    content = yaml.safe_load(description.read_text())
    content["splits"]["train"]["images_teacher"] = "second/*.png"
    (tmp_path / "camvid/second").mkdir()
    for path in (tmp_path / "camvid/train").glob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(tmp_path / "camvid/second" / path.name)
    train("distilled.yaml", "trainer.max_steps=2")
    (tmp_path / "camvid/two.yaml").write_text(yaml.safe_dump(content))
    train("distilled.yaml", "name=two", "trainer.max_steps=2", "data.dataset=camvid/two.yaml")
    one, other = (weights(tmp_path / f"runs/{name}/checkpoints/last.ckpt") for name in ("distilled", "two"))
    assert not same(one, other)


def test_jitter_that_the_student_alone_sees_is_no_part_of_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    make_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    own, store = ["data.jitter_seen_by=student", "data.color_jitter=0.4"], "teacher.store={folder: kept}"
    for name, *changes in (
        ("live", *own),
        ("kept", *own, store),
        ("stronger", *own, "data.color_jitter=0.8", "data.blur=0.5", store),
        ("seen_by_all", "data.color_jitter=0.4", store),
    ):
        train("distilled.yaml", f"name={name}", "trainer.max_steps=4", "data.views=2", *changes)
    names = ("live", "kept", "stronger")
    live, kept, stronger = (weights(tmp_path / f"runs/{name}/checkpoints/last.ckpt") for name in names)
    assert same(live, kept)
    assert not same(kept, stronger)
    made = [
        json.loads((tmp_path / f"runs/{name}/result.json").read_text())["store"]["views"]
        for name in ("kept", "stronger", "seen_by_all")
    ]
    assert made[1] == 0 < made[0] == made[2]
