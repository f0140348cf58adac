"""Which process is the first of a training, and machines that nothing leads to each other."""

from pathlib import Path

import pytest
from experiments import refused, segkd
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from segkd.training.processes import FOUND_BY, is_first


@pytest.fixture(autouse=True)
def _rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning keeps the rank of the last Trainer that was made: here for these tests alone."""
    monkeypatch.setattr(rank_zero_only, "rank", 0, raising=False)


@pytest.mark.parametrize(("rank", "first"), [("0", True), ("1", False)])
@pytest.mark.parametrize("variable", ["NODE_RANK", "GROUP_RANK"])
def test_one_machine_has_the_first(variable: str, rank: str, first: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(variable, rank)
    assert is_first(2) is first
    assert is_first(1)  # a teacher's training, which has no other machine


def test_the_rank_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch):
    for variable in ("SLURM_PROCID", "LOCAL_RANK", "RANK"):  # each counts before those before it
        for value, first in (("1", False), ("0", True)):
            monkeypatch.setenv(variable, value)
            assert is_first(1) is is_first(2) is first


@pytest.mark.parametrize("lacking", FOUND_BY)
def test_machines_that_cannot_find_each_other(experiment: Path, lacking: str, monkeypatch: pytest.MonkeyPatch):
    for variable, value in zip(FOUND_BY, ("127.0.0.1", "29500", "0"), strict=True):
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv(lacking)
    outcome = segkd("train", experiment / "teacher.yaml", "trainer.num_nodes=2", "trainer.accelerator=cpu")
    refused(outcome, "teacher: trainer.num_nodes: 2 machines find each other by", f" {lacking} not set")
    assert not (experiment / "runs/teacher").exists()


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        ("2", "NODE_RANK must be below trainer.num_nodes, 2, got 2"),
        ("-1", "NODE_RANK must be this machine's number, from 0 on, got '-1'"),
        ("first", "NODE_RANK must be this machine's number, from 0 on, got 'first'"),
    ],
)
def test_a_machine_of_no_number(experiment: Path, rank: str, message: str, monkeypatch: pytest.MonkeyPatch):
    for variable, value in zip(FOUND_BY, ("127.0.0.1", "29500", rank), strict=True):
        monkeypatch.setenv(variable, value)
    outcome = segkd("train", experiment / "teacher.yaml", "trainer.num_nodes=2", "trainer.accelerator=cpu")
    refused(outcome, message)
