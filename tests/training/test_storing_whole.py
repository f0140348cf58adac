"""A teacher that sees each image once, as a whole, in runs: one filling for all views and seeds."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from experiments import cut_at, make_detection_experiment, make_experiment, refused, same, segkd, train, weights, write
from PIL import Image

from segkd.comparison.timing import charges_of
from segkd.store.store import stores
from segkd.training.config import load_config

TERMS: dict[str, Any] = {
    "icsd": {"loss": "icsd", "weight": 0.02},
    "kd": {"loss": "pixel_kd", "size": "native", "share": 0.5},
    "features": {"loss": "pkd", "student": "decoder", "teacher": "model.decoder", "connector": "conv1x1"},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_experiment(tmp_path_factory.mktemp("teacher"))
    train(folder / "teacher.yaml", "student.auxiliary=true")
    return folder / "runs/teacher"


@pytest.fixture
def folder(experiment: Path, trained: Path) -> Path:
    """A folder with a finished run of a teacher, and no store."""
    shutil.copytree(trained, experiment / "runs/teacher")
    return experiment


def config(folder: Path, name: str, *, terms: dict[str, Any] = TERMS, **more: Any) -> Path:
    store = {"whole": True, "folder": str(folder / "kept")}
    teacher = {"config": None, "checkpoint": str(folder / "runs/teacher"), "store": store}
    said = {"teacher": teacher, "distill": {"terms": terms, **more.pop("distill", {})}, **more}
    return write(folder / f"{name}.yaml", {"base": "distilled.yaml", "name": name, **said})


def student(folder: Path, name: str) -> dict[str, torch.Tensor]:
    return weights(folder / f"runs/{name}/checkpoints/last.ckpt")


def views(folder: Path, name: str) -> int:
    return int(json.loads((folder / f"runs/{name}/result.json").read_text())["store"]["views"])


def test_all_seeds_and_lengths_read_the_images_that_were_seen_once(folder: Path) -> None:
    train(config(folder, "first"))
    assert views(folder, "first") == 5
    train(config(folder, "again"))
    assert same(student(folder, "first"), student(folder, "again"))
    train(config(folder, "other"), "seed=4", "trainer.max_steps=8", "data.view_seed=2", "data.flip=0.2")
    assert views(folder, "again") == views(folder, "other") == 0
    assert len(stores(folder / "kept")) == 1
    train(config(folder, "resized"), "data.resize=[96,128]")
    assert views(folder, "resized") == 5
    assert len(stores(folder / "kept")) == 2


def test_a_resumed_run_ends_as_one_that_went_through(folder: Path) -> None:
    train(config(folder, "whole"))
    path = config(folder, "halved")
    with cut_at(2):
        segkd("train", path)
    train("--resume", folder / "runs/halved")
    assert same(student(folder, "whole"), student(folder, "halved"))


def test_auxiliary_logits_images_without_labels_of_any_size_and_a_pixel_weighting(folder: Path) -> None:
    (folder / "camvid/extra").mkdir()
    for number, size in enumerate([(90, 61), (64, 64), (131, 70)]):
        Image.new("RGB", size, (60 * number, 90, 30)).save(folder / f"camvid/extra/{number}.png")
    unlabelled = {"unlabelled": {"images": "extra/*.png", "share": 0.5}}
    train(config(folder, "all", data=unlabelled, distill={"pixel_weighting": {"rdd": {}}}))
    (listed,) = stores(folder / "kept")
    places = {path.name for path in listed.store.folder.iterdir() if not path.name.startswith((".", "about"))}
    assert places == {"aux", "logits", "model.decoder", "size"}
    sizes = {tuple(listed.store.read((0, index), ["size"])["size"].tolist()) for index in range(5, 8)}  # type: ignore[index]
    assert sizes == {(61, 90, 64, 96), (64, 64, 64, 64), (70, 131, 80, 144)}


def test_a_second_input_is_what_the_teacher_saw(folder: Path) -> None:
    description = folder / "camvid/camvid.yaml"
    content = yaml.safe_load(description.read_text())
    content["splits"]["train"]["images_teacher"] = "second/*.png"
    shutil.copytree(folder / "camvid/train", folder / "camvid/second")
    (folder / "camvid/two.yaml").write_text(yaml.safe_dump(content))
    for path in sorted((folder / "camvid/second").iterdir())[:1]:
        Image.open(path).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(path)
    for name, dataset in (("one", "camvid"), ("two", "two")):
        train(config(folder, name), f"data.dataset={folder / f'camvid/{dataset}.yaml'}")
    assert not same(student(folder, "one"), student(folder, "two"))
    assert views(folder, "two") == 5


def test_it_is_filled_without_training_and_charged_once_for_all_seeds(folder: Path) -> None:
    path = config(folder, "later")
    done = segkd("store", path)
    assert done.status == 0, done.err
    assert "outputs for 5 of 5 views are stored" in done.out
    from rich.console import Console

    charges = charges_of(load_config(str(path)), 3, Console(quiet=True))
    (store,) = charges["stores"]
    assert (charges["views"], store["runs"]) == (5, 3)
    assert sum(store["spent"].values()) == pytest.approx(store["alone"], rel=0.01)


def test_what_has_no_maps_or_is_another_task_is_told(folder: Path, tmp_path: Path) -> None:
    detection = make_detection_experiment(tmp_path / "detection")
    write(detection / "kept.yaml", {"base": "distilled.yaml", "name": "kept", "teacher": {"store": {"whole": True}}})
    refused(segkd("train", detection / "kept.yaml"), "teacher.store.whole is not of detection: leave it out")
    refused(segkd("train", config(folder, "both"), "teacher.store.head=true"), "teacher.store.head")
