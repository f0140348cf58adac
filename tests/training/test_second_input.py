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
