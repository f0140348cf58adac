"""What TensorBoard shows, read back from a run's events."""

import io
from pathlib import Path

import numpy as np
import pytest
from experiments import cut_at, segkd, train
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def events(run: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def steps(accumulator: EventAccumulator, tag: str) -> list[int]:
    return [scalar.step for scalar in accumulator.Scalars(tag)]


def image(accumulator: EventAccumulator, tag: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(accumulator.Images(tag)[-1].encoded_image_string)))


def test_scalars(trained: Path):
    found = events(trained / "runs/distilled")
    for tag in ("train/loss", "train/task", "train/icsd", "train/kd", "lr/encoder", "lr/head"):
        assert steps(found, tag) == [1, 2, 3, 4], tag
    for tag in ("val/miou", "val/pixel_accuracy", "val/class_accuracy", "iou/sky", "iou/bicyclist"):
        assert steps(found, tag) == [2, 4], tag
    assert steps(found, "speed/images_per_second")
    assert found.Scalars("speed/images_per_second")[-1].value > 0


def test_the_score_comes_first(trained: Path):
    """TensorBoard orders groups by name, capitals first, and shows the first ones open."""
    found = events(trained / "runs/distilled")
    tags = found.Tags()["scalars"] + found.Tags()["images"]
    assert min(tags) == "Overview/val/miou"
    values = [[scalar.value for scalar in found.Scalars(tag)] for tag in ("Overview/val/miou", "val/miou")]
    assert values[0] == values[1]


def test_weights_and_the_loss_they_make(trained: Path):
    found = events(trained / "runs/distilled")
    values = {
        tag: np.array([scalar.value for scalar in found.Scalars(tag)])
        for tag in found.Tags()["scalars"]
        if tag.startswith(("train/", "weight/"))
    }
    assert values["weight/task"] == pytest.approx([0, 0.25, 0.5, 0.75])
    assert values["weight/kd"] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert values["weight/icsd"] == pytest.approx([0, 0.0025, 0.005, 0.0075])
    total = sum(values[f"weight/{name}"] * values[f"train/{name}"] for name in ("task", "kd", "icsd"))
    assert values["train/loss"] == pytest.approx(total, rel=1e-5)


def test_log_every(trained: Path):
    train(trained / "tiny.yaml", "name=rarely", "trainer.max_steps=7", "trainer.log_every=3", "trainer.accumulate=2")
    found = events(trained / "runs/rarely")
    assert steps(found, "train/loss") == [1, 3, 6, 7]
    assert steps(found, "val/miou") == [2, 4, 6, 7]


def test_pictures_after_each_validation(trained: Path):
    found = events(trained / "runs/distilled")
    assert set(found.Tags()["images"]) == {"pictures", "similarity/student", "similarity/teacher"}
    assert [picture.step for picture in found.Images("pictures")] == [2, 4]
    plain = events(trained / "runs/teacher")
    assert set(plain.Tags()["images"]) == {"pictures", "similarity/student"}
    # One column less without a teacher.
    assert image(plain, "pictures").shape[1] < image(found, "pictures").shape[1]


def test_as_many_pictures_as_are_asked_for(trained: Path):
    for count in (0, 2, 99):
        train(trained / "tiny.yaml", f"name=pictures{count}", "trainer.max_steps=1", f"validation.pictures={count}")
    assert events(trained / "runs/pictures0").Tags()["images"] == []
    two, three = (image(events(trained / f"runs/pictures{count}"), "pictures") for count in (2, 99))
    assert three.shape[0] > two.shape[0]


def test_the_weight_map_is_shown(trained: Path):
    rdd = ["distill.pixel_weighting.rdd.switch=0.5", "teacher.auxiliary=fit", "teacher.auxiliary_fit.steps=1"]
    train(trained / "distilled.yaml", "name=weighted", "trainer.max_steps=2", *rdd)
    found = events(trained / "runs/weighted")
    assert image(found, "pictures").shape[1] > image(events(trained / "runs/distilled"), "pictures").shape[1]
    assert 0 < found.Scalars("train/pixel_weight")[0].value <= 1


def test_a_resumed_run_shows_each_step_once(trained: Path):
    with cut_at(5):
        options = ["name=resumed", "trainer.max_steps=8", "validation.every=4"]
        assert segkd("train", trained / "tiny.yaml", *options).status == 1
    train("--resume", trained / "runs/resumed")
    found = events(trained / "runs/resumed")
    assert steps(found, "train/loss") == list(range(1, 9))
    assert steps(found, "val/miou") == [4, 8]
    assert [picture.step for picture in found.Images("pictures")] == [4, 8]
