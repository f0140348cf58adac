from collections.abc import Sequence
from pathlib import Path

import pytest
from experiments import make_detection_experiment, make_experiment, segkd, train, write

METHODS = ("tiny", "distilled", "kd")


def add_kd(folder: Path) -> Path:
    """Add a third config: pixel KD alone, with the teacher of `distilled`."""
    terms = {"terms": {"icsd": None}, "schedule": None}
    return write(folder / "kd.yaml", {"base": "distilled.yaml", "name": "kd", "distill": terms})


def train_runs(folder: Path, methods: Sequence[str], seeds: int) -> None:
    """Train the runs of a comparison in folder/out, in this process: it finds them finished."""
    for seed in range(seeds):
        for name in methods:
            train(folder / f"{name}.yaml", f"name={name}_seed{seed}", f"seed={seed}", f"runs={folder / 'out'}")


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in whose ``out`` three configs were compared over two seeds; read only."""
    folder = make_experiment(tmp_path_factory.mktemp("compared"))
    add_kd(folder)
    train_runs(folder, METHODS, 2)
    configs = [folder / f"{name}.yaml" for name in METHODS]
    outcome = segkd("compare", *configs, "--seeds", 2, "--out", folder / "out")
    assert outcome.status == 0, outcome.err
    (folder / "printed.txt").write_text(outcome.out)
    return folder


@pytest.fixture(scope="session")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in whose ``out`` a detector was trained alone and distilled; read only."""
    folder = make_detection_experiment(tmp_path_factory.mktemp("detectors"))
    train_runs(folder, ("tiny", "distilled"), 1)
    return folder


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return make_experiment(tmp_path)
