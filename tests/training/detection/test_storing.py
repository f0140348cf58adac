"""A detector's FPN maps are stored where they depend on an image alone: a run ends as without, and runs no teacher."""

import json
from pathlib import Path
from typing import Any

import pytest
from experiments import expect_same, refused, same, segkd, train, weights, write

from segkd.store.store import stores

MAPS = {"pkd": {"loss": "pkd", "student": "fpn", "teacher": "fpn", "weight": 6.0}, "fgd": {"loss": "fgd"}}
HEAD = {"class": {"loss": "crosskd_class"}}


def config(folder: Path, name: str, terms: dict[str, Any], store: bool = True, head: bool = False, **data: Any) -> Path:
    none = {"class": None, "box": None, "pkd": None}
    block = {"store": {"folder": str(folder / "kept"), "head": head} if store else None}
    data = {"crop": [64, 96], "scale": [0.8, 1.2], "views": 2, "view_seed": 5, **data}
    content = {"base": "distilled.yaml", "name": name, "teacher": block, "data": data}
    return write(folder / f"{name}.yaml", {**content, "distill": {"terms": none | terms}})


def filled(folder: Path, name: str) -> int:
    """Return how many views a run stored, and take what is said of the store out of its result."""
    file = folder / f"runs/{name}/result.json"
    found = json.loads(file.read_text())
    views: int = found.pop("store")["views"]
    file.write_text(json.dumps(found))
    return views


def test_a_run_ends_as_without_to_the_bit_and_the_next_one_runs_no_teacher(experiment: Path) -> None:
    for name in ("live", "first", "second"):
        train(config(experiment, name, MAPS, store=name != "live"))
    assert filled(experiment, "first") > 0
    assert filled(experiment, "second") == 0
    for name in ("first", "second"):
        expect_same(experiment / f"runs/{name}", experiment / "runs/live")
    (listed,) = stores(experiment / "kept")
    assert {each.parent.parent.name for each in listed.store.folder.rglob("*.safetensors")} == {"fpn"}
    # What is read is what is there: maps that differ by a rounding or two give another student.
    for file in listed.store.folder.rglob("*.safetensors"):
        view = (int(file.parent.name), int(file.stem))
        kept = listed.store.read(view, ["fpn"])
        assert kept is not None
        file.unlink()
        listed.store.write(view, {"fpn": {stride: 1.000005 * x for stride, x in kept["fpn"].items()}})
    train(config(experiment, "third", MAPS))
    last = "checkpoints/last.ckpt"
    assert not same(weights(experiment / "runs/third" / last), weights(experiment / "runs/live" / last))


OF_HEADS = {
    "crosskd": {"class": {"loss": "crosskd_class"}, "box": {"loss": "crosskd_box"}},
    "ld and pkd": {"ld": {"loss": "ld"}, **MAPS},
    "pgd": {"pgd": {"loss": "pgd"}},
    "gradients of the head": {"guided": {"loss": "gradient_guided"}},
}


@pytest.mark.parametrize("terms", OF_HEADS.values(), ids=OF_HEADS)
@pytest.mark.parametrize("trainer", [{}, {"channels_last": True, "precision": "bf16-mixed"}], ids=["", "as on CPUs"])
def test_a_head_that_runs_on_stored_maps_teaches_as_the_whole_to_the_bit(
    terms: dict[str, Any], trainer: dict[str, Any], experiment: Path
) -> None:
    changes = [f"trainer.{key}={value}" for key, value in trainer.items()]
    for name in ("live", "first", "second"):
        train(config(experiment, name, terms, store=name != "live", head=True), *changes)
    assert filled(experiment, "first") > 0
    assert filled(experiment, "second") == 0
    for name in ("first", "second"):
        expect_same(experiment / f"runs/{name}", experiment / "runs/live")


def test_filled_without_training_and_where_the_student_resizes_otherwise_another_one(experiment: Path) -> None:
    path = config(experiment, "one", MAPS)
    stored = segkd("store", path)
    assert stored.status == 0, stored.err
    train(path)
    assert filled(experiment, "one") == 0
    train(config(experiment, "other", MAPS, min_size=96))
    assert filled(experiment, "other") > 0
    assert len(stores(experiment / "kept")) == 2


@pytest.mark.parametrize(
    ("terms", "data"),
    [(HEAD, {}), (HEAD | MAPS, {}), (MAPS, {"crop": None}), (MAPS, {"min_size": [64, 96]})],
    ids=["a head", "a head and maps", "images of any size", "sizes that are drawn"],
)
def test_what_depends_on_more_than_the_image_is_refused(
    terms: dict[str, Any], data: dict[str, Any], experiment: Path
) -> None:
    path = config(experiment, "kept", terms, **data)
    refused(segkd("train", path), "teacher.store", "data.crop and one data.min_size", "depends on the batch")
    assert not (experiment / "runs/kept").exists()
