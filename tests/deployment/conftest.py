from pathlib import Path

import pytest
from experiments import make_detection_experiment, make_experiment, train


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `distilled`, and `teacher` before it, were trained; tests write to runs/distilled/export."""
    folder = make_experiment(tmp_path_factory.mktemp("shipped"))
    train(folder / "distilled.yaml", "student.arch=FPN", "student.encoder=tu-resnet10t")
    return folder


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a detector that finds something in every image."""
    folder = make_detection_experiment(tmp_path_factory.mktemp("detector"))
    train(folder / "tiny.yaml", "student.arch=retinanet", "student.options.score_thresh=0.0", "trainer.max_steps=2")
    return folder / "runs/tiny"
