"""Several teachers in a config: trained, averaged, resumed, measured, shown."""

import json
from pathlib import Path
from typing import Any

import pytest
from experiments import cut_at, expect_same, scalars, segkd, train, write

SHORT = {"trainer": {"max_steps": 1}}
TEACHERS: dict[str, Any] = {
    "big": {"config": "teacher.yaml", "overrides": SHORT},
    "both": {"average": ["big", "other"], "weights": [2, 1]},
    "other": {"config": "teacher.yaml", "overrides": {"name": "other", "seed": 2, **SHORT}},
}
DISTILL: dict[str, Any] = {
    "terms": {
        "kd": {"loss": "pixel_kd", "teacher": "both:logits"},
        "cwd": {"loss": "cwd", "teacher": "other:logits", "weight": 0.1},
        "deep": {"loss": "pkd", "student": "decoder", "teacher": "big:decoder"},
    },
    "pixel_weighting": {"rdd": {"teacher": "big", "without_auxiliary": "second_stage"}},
}


@pytest.fixture
def several(experiment: Path) -> Path:
    content = {"base": "tiny.yaml", "name": "several", "teachers": TEACHERS, "distill": DISTILL}
    return write(experiment / "several.yaml", content)


def test_teach_together_and_are_resumed_to_the_bit(several: Path):
    runs = several.parent / "runs"
    outcome = train(several)
    heading = next(line.split() for line in outcome.out.splitlines() if "student" in line and "both" in line)
    assert heading[-4:] == [*TEACHERS, "student"]
    result = json.loads((runs / "several/result.json").read_text())
    assert list(result["teachers"]) == list(TEACHERS)
    for name, run in (("big", "teacher"), ("other", "other")):
        assert (
            result["teachers"][name]["miou"] == json.loads((runs / run / "result.json").read_text())["student"]["miou"]
        )
    assert {"train/kd", "train/cwd", "train/deep"} <= set(scalars(runs / "several"))
    with cut_at(2):
        assert segkd("train", several, "name=cut").status == 1
    train("--resume", runs / "cut")
    expect_same(runs / "cut", runs / "several")


@pytest.mark.parametrize(
    ("changes", "unread"),
    [
        (["distill.terms={cwd: null, deep: null}", "distill.pixel_weighting=null"], None),  # it averages the others
        (["distill.terms={kd: null, deep: null}", "distill.pixel_weighting=null"], "big, both"),
        (["distill=null"], "big, other, both"),
        (["distill=null", "teachers=null", "teacher.config=teacher.yaml"], "teacher"),
    ],
)
def test_those_that_nothing_reads_are_named(several: Path, changes: list[str], unread: str | None):
    out = train(several, *changes, "trainer.max_steps=1").out
    assert (f"several: nothing is learnt from {unread}: no term reads it\n" in out) == (unread is not None)
    assert ("nothing is learnt" in out) == (unread is not None)
    # Nor do they learn: what a teacher is, is what its own run ended with.
    results = [json.loads((several.parent / f"runs/{run}/result.json").read_text()) for run in ("several", "teacher")]
    measured = results[0]["teachers"]["big"] if "teachers" in results[0] else results[0]["teacher"]
    assert measured["miou"] == results[1]["student"]["miou"]


def test_eval_shows_each(several: Path):
    train(several, "trainer.max_steps=1")
    target = several.parent / "measured.json"
    outcome = segkd("eval", several.parent / "runs/several", "--json", target)
    assert outcome.status == 0, outcome.err
    row = next(line.split() for line in outcome.out.splitlines() if line.startswith("mIoU"))
    assert len(row) == 5
    assert list(json.loads(target.read_text())["teachers"]) == list(TEACHERS)
