"""Training in two processes, and compiled."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments import rows, scalars, train, weights
from PIL import Image

from segkd.distiller import Distiller
from segkd.training.measure import evaluate

pytestmark = pytest.mark.slow


def test_two_processes(experiment: Path):
    ddp = ["accelerator=cpu", "devices=2", "strategy=ddp"]
    options = [f"{prefix}trainer.{option}" for option in ddp for prefix in ("", "teacher.overrides.")]
    command = [sys.executable, "-m", "segkd.cli", "train", str(experiment / "distilled.yaml"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("pixel accuracy") == 1
    assert {path.name for path in (experiment / "runs").iterdir()} == {"distilled", "teacher"}
    assert [row["step"] for row in rows(experiment / "runs/distilled")] == ["2", "4"]
    recorded = json.loads((experiment / "runs/distilled/result.json").read_text())
    measured = evaluate(str(experiment / "runs/distilled"), [])
    for model in ("teacher", "student"):
        # One process counts each image once; so did two together, three images being odd.
        for key in ("miou", "pixel_accuracy", "class_accuracy"):
            assert recorded[model][key] == pytest.approx(measured[model][key], abs=1e-9)


def test_two_that_torchrun_begins_finish_a_run_at_its_end(experiment: Path):
    """The second has nothing to do, and waits for the first to measure and write the result."""
    result = experiment / "runs/tiny/result.json"
    options = ("trainer.accelerator=cpu", "trainer.devices=1", "trainer.strategy=ddp", "trainer.recalibrate=2")
    found = []
    for count, arguments in (("1", [experiment / "tiny.yaml", *options]), ("2", ["--resume", result.parent])):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count]
        devices = f"trainer.devices={count}"
        done = subprocess.run(
            [*command, "-m", "segkd.cli", "train", *map(str, arguments), devices],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        assert "segkd: " not in done.stderr
        found.append(json.loads(result.read_text()))
        result.unlink()
    assert found[0]["student"] == found[1]["student"]
    assert found[1]["environment"]["processes"] == 2


@pytest.mark.parametrize("order", ["01", "10"])
def test_two_machines(experiment: Path, order: str):
    """Each begins with the command, in the folder that they share; the first that comes trains the teacher."""
    options = [f"trainer.{key}" for key in ("num_nodes=2", "devices=1", "strategy=ddp", "accelerator=cpu")]
    command = [sys.executable, "-m", "segkd", "train", str(experiment / "distilled.yaml"), *options]
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"295{order}"}
    machines = {}
    for rank in order:
        machines[rank] = subprocess.Popen(
            command,
            env={**os.environ, **meeting, "NODE_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while not (experiment / "runs/teacher/.lock").exists() and machines[rank].poll() is None:
            time.sleep(0.05)
    said = {rank: machine.communicate(timeout=600) for rank, machine in machines.items()}
    assert {rank: (machine.returncode, said[rank][1]) for rank, machine in machines.items()} == dict.fromkeys(
        "01", (0, "")
    )
    assert "distilled: training begins when this command runs on all 2 machines" in said["0"][0]
    assert "distilled" not in said["1"][0]
    for run in ("teacher", "distilled"):
        assert len(list((experiment / "runs" / run).glob("events.out.*"))) == 1  # the other machine waited
    result = json.loads((experiment / "runs/distilled/result.json").read_text())
    assert (result["steps"], result["environment"]["processes"]) == (4, 2)


def test_two_processes_are_one_of_twice_the_batch(experiment: Path):
    """Also where they have other numbers of labelled pixels; no batch norm, whose statistics are each one's own."""
    for number, path in enumerate(sorted((experiment / "camvid/trainannot").glob("*.png"))):
        mask = np.array(Image.open(path))
        mask[: 12 * number] = 11  # void
        Image.fromarray(mask).save(path)
    model = ["student.arch=FPN", "student.encoder=tu-convnext_atto", "student.options.decoder_dropout=0"]
    model.append(
        "teacher.overrides.student.encoder=tu-mobilenetv3_small_050"
    )  # of milder logits: a difference is not made larger
    terms = "{kd: {loss: pixel_kd, ignore_index: 255}, icsd: {loss: icsd, weight: 0.01}}"
    sgd = ["optimizer.name=sgd", "optimizer.lr=0.001", f"distill.terms={terms}"]
    one = ["name=one", "runs=one", "data.batch_size=4"]
    two = ["name=two", "runs=two", "data.batch_size=2", "trainer.devices=2", "trainer.strategy=ddp"]
    for options in (one, two):
        command = [sys.executable, "-m", "segkd", "train", str(experiment / "distilled.yaml")]
        done = subprocess.run(
            [*command, *model, *sgd, *options], capture_output=True, text=True, timeout=600, cwd=experiment
        )
        assert (done.returncode, done.stderr) == (0, "")
    left, right = (weights(experiment / f"{name}/{name}/checkpoints/last.ckpt") for name in ("one", "two"))
    for key, value in left.items():
        torch.testing.assert_close(right[key], value, rtol=0, atol=1e-5, msg=key)
    logged = [scalars(experiment / name / name) for name in ("one", "two")]
    for key in ("train/loss", "train/task", "train/kd", "train/icsd"):
        assert logged[1][key] == pytest.approx(logged[0][key], abs=1e-5), key


def test_compiled(experiment: Path, monkeypatch: pytest.MonkeyPatch):
    # All but the generated code, which takes minutes to build and is not ours.
    monkeypatch.setattr(Distiller, "compile", lambda self: torch.nn.Module.compile(self, backend="aot_eager"))
    # In the validation after the first step averages are in the weights' place.
    options = ["trainer.max_steps=2", "teacher.overrides.trainer.max_steps=1", "trainer.ema=0.5", "validation.every=1"]
    options += ["optimizer.name=sgd", "optimizer.lr=0.1"]  # AdamW's first steps make rounding as large as any gradient
    found = []
    for name, compiled in (("eager", "false"), ("compiled", "true")):
        train(experiment / "distilled.yaml", *options, f"name={name}", f"trainer.compile={compiled}")
        found.append(weights(experiment / f"runs/{name}/checkpoints/last.ckpt"))
    keys = found[1]
    for key, value in found[0].items():
        torch.testing.assert_close(keys[key], value, rtol=1e-4, atol=1e-5, msg=key)
    assert all(key.startswith("distiller.student.") for key in keys)
