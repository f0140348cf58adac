from pathlib import Path

import numpy as np
import pytest
from experiments import make_experiment, refused, same, segkd, train, weights
from PIL import Image


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_experiment(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "camvid/extra").mkdir()
    for index in range(3):
        Image.fromarray(np.full((64, 96, 3), 60 * index, np.uint8)).save(tmp_path / f"camvid/extra/{index}.png")
    return tmp_path


WITH = "data.unlabelled={images: 'extra/*.png', share: 0.5}"


def test_a_run_learns_of_them_what_the_teacher_says(experiment: Path):
    out = train("distilled.yaml", WITH, "trainer.max_steps=2").out
    assert "3 images without labels: 1 of 2 in each batch" in out
    assert "nothing is learnt from images without labels" not in out
    train("distilled.yaml", "name=none", "trainer.max_steps=2")
    one, other = (weights(experiment / f"runs/{name}/checkpoints/last.ckpt") for name in ("distilled", "none"))
    assert not same(one, other)


def test_the_check_counts_and_reads_them(experiment: Path):
    done = segkd("data", "check", "tiny.yaml", WITH)
    assert done.status == 0
    assert "unlabelled: 3 images; width x height 96x64 (3)" in done.out
    (experiment / "camvid/extra/1.png").write_bytes(b"x")
    refused(segkd("data", "check", "tiny.yaml", WITH), "1 problem(s)")


@pytest.mark.parametrize(
    ("block", "texts"),
    [
        ("{images: 'extra/*.png', share: 1}", ("data.unlabelled.share", "less than 1")),
        ("{images: 'extra/*.png', share: -0.1}", ("data.unlabelled.share", "at least 0")),
        ("{images: 'extra/*.png', share: 0.1}", ("unlabelled.share: 0.1 of batch_size 2 is 0 images",)),
        ("{images: 'extra/*.png', share: 0.9}", ("unlabelled.share: 0.9 of batch_size 2 is 2 images",)),
        ("{images: 'extra/*.jpg'}", ("no image matches", "extra/*.{jpg,png}")),
        ("{share: 0.5}", ("data.unlabelled.images", "missing")),
    ],
)
def test_what_is_no_share_or_finds_nothing_is_one_line(experiment: Path, block: str, texts: tuple[str, ...]):
    refused(segkd("train", "tiny.yaml", f"data.unlabelled={block}"), *texts)
    assert not (experiment / "runs/tiny").exists()
