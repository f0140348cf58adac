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
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of two detectors, each named after its architecture, that find something in every image."""
    folder = make_detection_experiment(tmp_path_factory.mktemp("detector"))
    for arch in ("retinanet", "gfl", "atss"):
        options = (f"student.arch={arch}", f"name={arch}", "student.options.score_thresh=0.0", "trainer.max_steps=2")
        train(folder / "tiny.yaml", "student.backbone=resnet18", *options)
    return folder / "runs"


@pytest.fixture
def detector(detectors: Path) -> Path:
    """The RetinaNet of them."""
    return detectors / "retinanet"
