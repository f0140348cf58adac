"""Every config that is shipped takes two optimiser steps on a tiny tree in its data set's true layout."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import trees
from experiments import train, weights

from segkd.segmentation.datasets import load_dataset_spec
from segkd.segmentation.models import build_model
from segkd.training.config import load_config, shipped_configs

MAKE = {
    "camvid": trees.make_camvid,
    "cityscapes": trees.make_cityscapes,
    "streets": trees.make_streets,
    "voc2012": trees.make_voc,
}
SMALL = [
    "data.crop=[64,64]",
    "data.batch_size=2",
    "data.workers=0",
    "validation.resize=[64,64]",
    "validation.batch_size=1",
    "validation.pictures=1",
    "student.encoder_weights=null",
    "trainer.max_steps=2",
    "trainer.log_every=1",
    "trainer.accelerator=cpu",
    "trainer.devices=1",
    "trainer.threads=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shipped")


def small(dataset: str, folder: Path, is_resized: bool) -> list[str]:
    """The overrides that make a shipped config small, on a tiny tree of its data set."""
    root = folder / dataset
    if not root.exists():
        MAKE[dataset](root)
    found = [*SMALL, f"data.dataset={root / dataset}.yaml", f"data.root={root}"]
    return [*found, "data.resize=[64,64]"] if is_resized else found


@pytest.mark.parametrize("name", [path.stem for path in shipped_configs()])
def test_takes_two_steps(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SEGKD_WEIGHTS", str(folder))
    config = load_config(name)
    runs = folder / "runs" / name
    options = [f"runs={runs}", *small(config.data.dataset, folder, config.data.resize is not None)]
    if config.teacher is not None:
        options += ["teacher.auxiliary_fit.steps=2"] if config.teacher.auxiliary == "fit" else []
        if config.teacher.config is not None:
            own = load_config(config.teacher.config)
            changes = small(own.data.dataset, folder, own.data.resize is not None)
            options += [f"teacher.overrides.{change}" for change in changes]
        else:  # its weights are not here: random ones of the same model
            classes = load_dataset_spec(config.data.dataset).num_classes
            assert config.teacher.arch is not None
            assert config.teacher.encoder is not None
            model = build_model(config.teacher.arch, config.teacher.encoder, classes)
            safetensors.torch.save_model(model, str(folder / f"{name}.safetensors"))
            options += [f"teacher.checkpoint={folder / name}.safetensors"]
    train(name, *options)
    run = runs / config.name
    result = json.loads((run / "result.json").read_text())
    assert result["steps"] == 2
    assert (result["teacher"] is None) == (config.teacher is None)
    assert all(value.isfinite().all() for value in weights(run / "checkpoints/last.ckpt").values())
