"""The moving average of the student's weights: what it is of, where it stands, and that nothing else changes."""

from pathlib import Path

import pytest
import torch
from experiments import (
    cut,
    cut_at,
    expect_same,
    identical,
    make_detection_experiment,
    make_experiment,
    measured,
    recorded_steps,
    refused,
    segkd,
    train,
    weights,
)
from safetensors.torch import load_file
from torch import Tensor

from segkd.training.module import DistillModule
from segkd.training.run import Run

OPTIONS = ["trainer.max_steps=5", "validation.every=2", "trainer.ema=0.6"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs `without` an average and `whole`, with one."""
    folder = make_experiment(tmp_path_factory.mktemp("average"))
    train(folder / "distilled.yaml", "name=without", *OPTIONS[:2])
    train(folder / "distilled.yaml", "name=whole", *OPTIONS)
    return folder


def of_student(state: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "distiller.student."
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def test_it_is_of_all_steps_and_is_what_is_measured_and_saved(folder: Path):
    with recorded_steps() as steps:
        train(folder / "distilled.yaml", "name=recorded", *OPTIONS, "validation.every=5")
    run = folder / "runs/recorded"
    states = [*(step["student"] for step in steps), of_student(weights(run / "checkpoints/last.ckpt"))]
    expected = {key: value for key, value in states[0].items() if value.is_floating_point()}
    for step, state in enumerate(states[1:], 1):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = {key: decay * value + (1 - decay) * state[key] for key, value in expected.items()}
    saved, best = load_file(run / "student/model.safetensors"), of_student(weights(run / "checkpoints/best.ckpt"))
    for key, value in expected.items():
        torch.testing.assert_close(best[key], value, rtol=1e-5, atol=1e-6)
        assert torch.equal(best[key], saved[key])
    assert any(not torch.equal(value, states[-1][key]) for key, value in expected.items())
    outcome = segkd("eval", run)
    assert f"{100 * float(measured(run)[-1]['val/miou']):.2f}" in outcome.out


def test_training_itself_goes_on_as_without(folder: Path):
    of_both = [weights(folder / f"runs/{name}/checkpoints/last.ckpt") for name in ("without", "whole")]
    assert identical(*of_both)
    assert [row["val/miou"] for row in measured(folder / "runs/without")] != [
        row["val/miou"] for row in measured(folder / "runs/whole")
    ]


CUTS = {
    "between two validations": (DistillModule, "training_step", lambda module, *_: module.global_step == 3),
    "within a validation": (DistillModule, "validation_step", lambda module, *_: module.global_step == 4),
    "within the last validation": (DistillModule, "validation_step", lambda module, *_: module.global_step == 5),
    "after the last validation": (Run, "finish", lambda run, _: True),
}


@pytest.mark.parametrize(("place", "every"), [*zip(CUTS, (1, 5, 1, 5), strict=True)])
def test_resuming_is_exact(folder: Path, place: str, every: int):
    name = place.replace(" ", "_")
    options = [*OPTIONS, f"trainer.checkpoint_every={every}"]
    with cut(*CUTS[place]):
        assert "the power went" in segkd("train", folder / "distilled.yaml", f"name={name}", *options).err
    train("--resume", folder / "runs" / name)
    expect_same(folder / "runs" / name, folder / "runs/whole")


def test_a_best_checkpoint_that_was_removed_is_the_last_steps_average(folder: Path):
    name = "removed"
    with cut(*CUTS["after the last validation"]):
        segkd("train", folder / "distilled.yaml", f"name={name}", *OPTIONS)
    run = folder / "runs" / name
    (run / "checkpoints/best.ckpt").unlink()
    train("--resume", run)
    last = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    averages, saved = last["callbacks"]["StudentAverage"]["student"], load_file(run / "student/model.safetensors")
    assert averages
    assert all(torch.equal(average, saved[key]) for key, average in averages.items())


def test_through_accumulation_stages_and_memory_that_lies_otherwise(folder: Path):
    stages = [
        "trainer.max_steps=null",
        'stages=[{"steps":2},{"steps":3,"distill":{"terms":{"kd":{"loss":"pixel_kd"}}}}]',
    ]
    more = ["trainer.accumulate=2", "trainer.channels_last=true", "trainer.precision=bf16-mixed"]
    options = ["trainer.ema=0.6", "validation.every=2", "distill.schedule=null", *stages, *more]
    train(folder / "distilled.yaml", "name=mixed", *options)
    with cut_at(3):
        segkd("train", folder / "distilled.yaml", "name=mixed_cut", *options, "trainer.checkpoint_every=1")
    train("--resume", folder / "runs/mixed_cut")
    expect_same(folder / "runs/mixed_cut", folder / "runs/mixed")


def test_of_a_detector(tmp_path: Path):
    folder = make_detection_experiment(tmp_path)
    train(folder / "tiny.yaml", "trainer.ema=0.9", "trainer.max_steps=2", "validation.every=1")
    best = of_student(weights(folder / "runs/tiny/checkpoints/best.ckpt"))
    assert identical(best, load_file(folder / "runs/tiny/student/model.safetensors"))


@pytest.mark.parametrize("decay", ["0", "1", "-0.5", "often"])
def test_a_decay_is_between_0_and_1(folder: Path, decay: str):
    refused(segkd("train", folder / "tiny.yaml", f"trainer.ema={decay}", "name=none"), "trainer.ema", decay)


def test_it_is_not_put_on_later(folder: Path):
    refused(
        segkd("train", "--resume", folder / "runs/without", "trainer.ema=0.9", "trainer.max_steps=6"), "trainer.ema"
    )
