import csv
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from experiments import cut_at, segkd, train

from segkd.training.callbacks import Cost, peak_memory
from segkd.training.results import environment


@pytest.fixture
def result(trained: Path) -> dict:
    return json.loads((trained / "runs/distilled/result.json").read_text())


def test_a_result_says_what_the_run_cost(trained: Path, result: dict):
    with (trained / "runs/distilled/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert 0 < float(rows[0]["seconds"]) < float(rows[1]["seconds"]) == pytest.approx(result["seconds"], abs=1e-3)
    assert 50e6 < result["peak_memory"] < 1e12


def test_a_result_says_where_it_was_made(result: dict):
    assert result["environment"]["torch"] == torch.__version__.split("+")[0]
    assert result["environment"]["python"] == platform.python_version()
    assert result["environment"]["processes"] == 1
    assert result["environment"]["gpu"] == (torch.cuda.get_device_name() if torch.cuda.is_available() else None)


def test_the_environment_names_a_processor():
    assert environment()["cpu"]


def test_seconds_and_memory_go_on_when_a_run_is_resumed(experiment: Path):
    segkd("train", experiment / "tiny.yaml", "name=whole")
    with cut_at(3):
        assert segkd("train", experiment / "tiny.yaml", "name=cut").status == 1
    checkpoint = experiment / "runs/cut/checkpoints/last.ckpt"
    before = torch.load(checkpoint, weights_only=True)
    state = before["callbacks"]["Cost"]
    state["seconds"] += 1000
    state["peak_memory"] = 10**12
    torch.save(before, checkpoint)
    train("--resume", experiment / "runs/cut")
    result = json.loads((experiment / "runs/cut/result.json").read_text())
    assert 1000 < result["seconds"] < 1100
    assert result["peak_memory"] == 10**12


def test_validation_is_not_counted():
    cost = Cost()
    trainer = type("Trainer", (), {"training": True})()
    cost.on_train_start(trainer, None)
    cost.on_train_batch_end(trainer, None, None, None, 0)
    cost.on_validation_start(trainer, None)
    before = cost.seconds
    time.sleep(0.05)
    cost.on_validation_end(trainer, None)
    cost.on_train_batch_end(trainer, None, None, None, 1)
    assert cost.seconds - before < 0.05
    time.sleep(0.05)
    cost.on_train_batch_end(trainer, None, None, None, 2)
    assert cost.seconds - before >= 0.05


def test_peak_memory_does_not_fall():
    before = peak_memory()
    assert before is not None
    held = torch.ones(30_000_000)
    held += 1
    assert peak_memory() >= max(before, held.nbytes)


@pytest.mark.slow
def test_peak_memory_is_not_that_of_the_process_that_started_this_one():
    held = torch.ones(500_000_000)
    code = "from segkd.training.callbacks import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < held.nbytes
