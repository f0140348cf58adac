"""Every config that is shipped takes two optimiser steps on a tiny tree in its data set's true layout."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import trees
from experiments import train, weights

from segkd.training.config import load_config, shipped_configs
from segkd.training.schema import Config
from segkd.training.tasks import task_of
from segkd.training.teacher import TeacherOf

MAKE = {
    "bccd": trees.make_bccd,
    "camvid": trees.make_camvid,
    "cityscapes": trees.make_cityscapes,
    "coco": trees.make_coco,
    "streets": trees.make_streets,
    "voc2012": trees.make_voc,
}
SMALL = [
    "data.batch_size=2",
    "data.workers=0",
    "validation.batch_size=1",
    "validation.pictures=1",
    "trainer.max_steps=2",
    "trainer.log_every=1",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.threads=1",
]
OF_TASK = {
    "segmentation": ["data.crop=[64,64]", "validation.resize=[64,64]", "student.encoder_weights=null"],
    # Without pretrained statistics a frozen batch norm does not normalise: deep backbones overflow.
    "detection": [
        "data.min_size=64",
        "student.backbone_weights=null",
        "student.norm=batch",
        "student.options.out_channels=64",
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shipped")


def small(config: Config, folder: Path) -> list[str]:
    """The overrides that make a shipped config small, on a tiny tree of its data set."""
    dataset = config.data.dataset
    root = folder / dataset
    if not root.exists():
        MAKE[dataset](root)
    found = [*SMALL, *OF_TASK[config.task], f"data.dataset={root / dataset}.yaml", f"data.root={root}"]
    if getattr(config.data, "resize", None) is not None:
        found.append("data.resize=[64,64]")
    if config.data.unlabelled is not None:
        found += ["data.limit=1", "data.unlabelled.share=0.5"]  # the other image of the tree is without label
    if config.task == "detection" and getattr(config.data, "crop", None) is not None:
        found.append("data.crop=[64,96]")
    return found


def row(name: str) -> Any:
    """Return a parameter, slow where the config's networks are large ones."""
    is_large = load_config(name, build=False).data.dataset in ("cityscapes", "coco", "voc2012")
    return pytest.param(name, marks=pytest.mark.slow if is_large else [])


@pytest.mark.parametrize("name", [row(path.stem) for path in shipped_configs()])
def test_takes_two_steps(name: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEGKD_WEIGHTS", str(folder))
    monkeypatch.setenv("SEGKD_STORE", str(tmp_path / "store"))
    config = load_config(name)
    options = [f"runs={tmp_path}", *small(config, folder)]
    for teacher, block in config.named_teachers().items():
        key = teacher if config.teachers is None else f"teachers.{teacher}"
        options += [f"{key}.auxiliary_fit.steps=2"] if getattr(block, "auxiliary", None) == "fit" else []
        if block.config is not None:  # trained once for all students that it has
            own = load_config(block.config, changes=block.overrides)
            changes = [*small(own, folder), f"runs={folder / 'teachers'}"]
            options += [f"{key}.overrides.{change}" for change in changes]
        else:  # its weights are not here: random ones of the same model
            has_head = bool(getattr(block, "auxiliary", False))
            file = folder / f"{Path(block.checkpoint).stem}{'_with_head' * has_head}.safetensors"
            if not file.exists():
                safetensors.torch.save_model(TeacherOf(task_of(config), teacher, None).network.module, str(file))
            options += [f"{key}.checkpoint={file}"]
    train(name, *options)
    run = tmp_path / config.name
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 2
    assert (result["teacher"] is None) == (config.teacher is None)
    assert [*(result.get("teachers") or {})] == ([] if config.teachers is None else [*config.named_teachers()])
    state = weights(run / "checkpoints/last.ckpt")
    assert all(value.isfinite().all() for value in state.values())
    if any(".losses." in key for key in state):  # what losses make when they see maps is there when a run goes on
        train("--resume", run, "trainer.max_steps=3")
    for checkpoints in folder.glob("teachers/*/checkpoints"):  # large, and a student reads what stands beside them
        shutil.rmtree(checkpoints)


@pytest.mark.parametrize("name", [path.stem for path in shipped_configs() if path.stem.startswith("bccd_")])
def test_detectors_of_bccd_have_one_width_whatever_their_architecture(name: str):
    config = load_config(name)
    teacher = config.teacher.overrides.get("student", {}) if config.teacher else {}
    for student in (config.student.options, *([teacher["options"]] if "arch" in teacher else [])):
        assert student["out_channels"] == 64
