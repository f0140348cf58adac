from pathlib import Path

import pytest
from experiments import make_detection_experiment, train


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    return make_detection_experiment(tmp_path)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `distilled`, and `teacher` before it, were trained; read only."""
    folder = make_detection_experiment(tmp_path_factory.mktemp("trained_detection"))
    (folder / "printed.txt").write_text(train(folder / "distilled.yaml").out)
    return folder
