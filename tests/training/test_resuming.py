"""Going on with changes: further than planned, elsewhere, and never as another run."""

import json
from pathlib import Path

import pytest
import torch
from experiments import cut_at, expect_same, make_experiment, measured, refused, same, segkd, train, weights, write
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segkd.training.config import load_config
from segkd.training.run import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run `tiny` of 4 steps; each test's runs have names of their own."""
    folder = make_experiment(tmp_path_factory.mktemp("resuming"))
    train(folder / "tiny.yaml")
    return folder


def rates(run: Path) -> dict[int, float]:
    """Return the learning rate of each step, the last that was written."""
    events = EventAccumulator(str(run))
    events.Reload()
    return {scalar.step: scalar.value for scalar in events.Scalars("lr/head")}


@pytest.mark.parametrize("schedule", ["poly", "onecycle"])
def test_a_finished_run_goes_further_with_the_rates_of_a_run_of_that_length(folder: Path, schedule: str):
    options = [f"optimizer.schedule={schedule}", "optimizer.warmup_steps=1"]
    train(folder / "tiny.yaml", f"name={schedule}", "trainer.max_steps=4", *options)
    train(folder / "tiny.yaml", f"name={schedule}_long", "trainer.max_steps=8", *options)
    run, long = (folder / "runs" / name for name in (schedule, f"{schedule}_long"))
    train("--resume", run, "trainer.max_steps=8")
    found, expected = rates(run), rates(long)
    assert [found[step] for step in (5, 6, 7, 8)] == pytest.approx([expected[step] for step in (5, 6, 7, 8)])
    assert [row["step"] for row in measured(run)] == ["2", "4", "6", "8"]
    assert json.loads((run / "result.json").read_text())["steps"] == 8
    assert Run(run).config().trainer.max_steps == 8


def test_what_is_extended_and_stopped_is_unfinished_until_it_is_resumed(folder: Path):
    run = folder / "runs/extended"
    train(folder / "tiny.yaml", "name=extended")
    with cut_at(5):
        segkd("train", "--resume", run, "trainer.max_steps=6", "trainer.checkpoint_every=1")
    assert not Run(run).finished
    assert (run / "student/model.safetensors").is_file()
    outcome = train("--resume", run)
    assert "extended: training on cpu, 5 images, from step 5 to 6" in outcome.out
    train(folder / "tiny.yaml", "name=extended_at_once")
    train("--resume", folder / "runs/extended_at_once", "trainer.max_steps=6")
    of_both = [weights(folder / "runs" / name / "checkpoints/last.ckpt") for name in ("extended", "extended_at_once")]
    assert same(*of_both)


def test_harmless_changes_change_nothing_that_is_learnt(folder: Path):
    run = folder / "runs/changed"
    with cut_at(3):
        segkd("train", folder / "tiny.yaml", "name=changed", "trainer.checkpoint_every=1")
    changes = ["data.workers=1", "trainer.log_every=7", "trainer.devices=1", "validation.batch_size=1"]
    train("--resume", run, *changes)
    assert same(weights(run / "checkpoints/last.ckpt"), weights(folder / "runs/tiny/checkpoints/last.ckpt"))
    config = Run(run).config()
    assert (config.data.workers, config.trainer.log_every, config.validation.batch_size) == (1, 7, 1)


def test_killed_as_its_directory_was_made_it_goes_on_from_its_beginning(folder: Path):
    run = Run(folder / "runs/made")
    run.create(load_config(str(folder / "tiny.yaml"), ["name=made"]))
    run.last.parent.rmdir()  # which is made after config.yaml
    train("--resume", run.directory)
    expect_same(run.directory, folder / "runs/tiny")


def test_refused(folder: Path):
    run = folder / "runs/tiny"
    before = (run / "config.yaml").read_text()
    for changes, texts in (
        (["optimizer.lr=0.1", "data.crop=[32,32]"], ["another data.crop, optimizer.lr", "segkd train", "name=..."]),
        (["name=other"], ["another name"]),
        (["trainer.max_step=9"], ["'trainer.max_step'", "did you mean 'max_steps'?"]),
        (["trainer.max_steps=4"], ["is finished, after 4 steps", "trainer.max_steps=8"]),
        (["trainer.max_steps=2"], ["is finished"]),
        ([], ["is finished"]),
    ):
        refused(segkd("train", "--resume", run, *changes), *texts)
    with cut_at(3):
        segkd("train", folder / "tiny.yaml", "name=stopped", "trainer.checkpoint_every=1")
    refused(segkd("train", "--resume", folder / "runs/stopped", "trainer.max_steps=2"), "has done 3 steps")
    (run / "checkpoints").rename(run / "kept")
    refused(segkd("train", "--resume", run, "trainer.max_steps=8"), "cannot go further", "last.ckpt")
    (run / "kept").rename(run / "checkpoints")
    assert (run / "config.yaml").read_text() == before
    assert Run(run).finished


def test_queues_and_random_masks_go_on_exactly_and_a_loss_clips_its_own_layers(folder: Path):
    places = {"student": "decoder", "teacher": "decoder"}
    terms = {
        "kd": None,
        "icsd": None,
        "memory": {"loss": "cirkd_memory", "classes": 11, "pixel_slots": 40, "region_slots": 6, **places},
        "channels": {"loss": "cirkd_channel", "slots": 64, "max_channels": 8, "contrasts": 16, "pool": 2, **places},
        "masked": {"loss": "mgd", "weight": 1.0e-3, **places},
        "own": {"loss": "afdcd", "groups": 4, "pool": 0, "patch": 1, "gradient_clip": 1.0e-3, **places},
    }
    path = write(
        folder / "queues.yaml",
        {
            "base": "distilled.yaml",
            "distill": {"terms": terms, "schedule": None},
            "optimizer": {"name": "sgd", "weight_decay": 0.0},
        },
    )
    train(path, "name=queues", "trainer.max_steps=3", "trainer.checkpoint_every=1")
    with cut_at(1):
        segkd("train", path, "name=queues_cut", "trainer.max_steps=3", "trainer.checkpoint_every=1")
    run = folder / "runs/queues_cut"
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    # After one step the momentum is the gradient; the optimiser has the losses' layers last, in their order.
    own = [key for key in checkpoint["state_dict"] if ".losses.own." in key and not key.endswith("_extra_state")]
    momenta = [state["momentum_buffer"] for _, state in sorted(checkpoint["optimizer_states"][0]["state"].items())]
    assert torch.cat([x.flatten() for x in momenta[-len(own) :]]).norm() == pytest.approx(1e-3, rel=1e-3)
    train("--resume", run)
    expect_same(run, folder / "runs/queues")
