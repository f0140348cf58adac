"""A run of version 0.1: its config knows no families, stages or task loss, its result no task."""

import json
import shutil
from pathlib import Path

import yaml
from experiments import expect_same, segkd, train


def test_is_measured_and_goes_on_to_the_bit(trained: Path, tmp_path: Path):
    new, old = tmp_path / "new", tmp_path / "old"
    for run in (new, old):
        shutil.copytree(trained / "runs/distilled", run)
    config = yaml.safe_load((old / "config.yaml").read_text())
    for key in ("python_path", "teachers", "task_loss", "stages"):
        del config[key]
    for block in (config["student"], config["teacher"]):
        del block["family"]
    del config["data"]["unlabelled"]
    (old / "config.yaml").write_text(yaml.safe_dump(config))
    result = json.loads((old / "result.json").read_text())
    del result["task"]
    (old / "result.json").write_text(json.dumps(result))
    measured = [segkd("eval", run) for run in (new, old)]
    assert [outcome.status for outcome in measured] == [0, 0], measured
    assert measured[0].out == measured[1].out
    for run in (new, old):
        train("--resume", run, "trainer.max_steps=6")
    expect_same(old, new)
