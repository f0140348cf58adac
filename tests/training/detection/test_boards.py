"""What TensorBoard shows of a detection run, read back from its events."""

import io
from pathlib import Path

import numpy as np
import pytest
from experiments import train
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def image(accumulator: EventAccumulator, tag: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(accumulator.Images(tag)[-1].encoded_image_string)))


def test_scalars(trained: Path):
    found = events(trained / "runs/distilled")

    def values(tag: str) -> list[float]:
        return [scalar.value for scalar in found.Scalars(tag)]

    for tag in ("train/class", "train/box", "train/pkd", "weight/box", "lr/encoder", "lr/head"):
        assert len(values(tag)) == 4, tag
    parts = [values(f"train/task_{part}") for part in ("classification", "bbox_regression", "distribution")]
    assert np.sum(parts, axis=0) == pytest.approx(values("train/task"), rel=1e-5)
    total = sum(
        np.array(values(f"weight/{name}")) * values(f"train/{name}") for name in ("task", "class", "box", "pkd")
    )
    assert values("train/loss") == pytest.approx(total, rel=1e-5)
    for tag in ("val/ap", "val/ap50", "ap/RBC", "ap50/WBC"):
        assert [scalar.step for scalar in found.Scalars(tag)] == [2, 4], tag


def test_the_score_comes_first(trained: Path):
    found = events(trained / "runs/distilled")
    assert min(found.Tags()["scalars"]) == "Overview/val/ap"


def test_pictures_after_each_validation(trained: Path):
    found = events(trained / "runs/distilled")
    assert set(found.Tags()["images"]) == {"pictures", "fpn/student", "fpn/teacher"}
    assert [picture.step for picture in found.Images("pictures")] == [2, 4]
    plain = events(trained / "runs/teacher")
    assert set(plain.Tags()["images"]) == {"pictures", "fpn/student"}
    # One column less without a teacher.
    assert image(plain, "pictures").shape[1] < image(found, "pictures").shape[1]


def test_no_pictures(trained: Path):
    train(trained / "tiny.yaml", "name=pictures0", "trainer.max_steps=1", "validation.pictures=0")
    assert events(trained / "runs/pictures0").Tags()["images"] == []
