from pathlib import Path

import pytest
import torch

import segkd
from segkd.detection.models import build_detector
from segkd.detection.student import DetectionStudent
from segkd.detection.student import save_student as save_detector
from segkd.errors import SegkdError
from segkd.segmentation.models import build_model
from segkd.segmentation.student import Student, save_student


def test_either_task(tmp_path: Path):
    save_student(build_model("Unet", "resnet18", 2, None), tmp_path / "a/student", info={})
    save_detector(build_detector("gfl", "resnet18", 2, options={"out_channels": 64}), tmp_path / "b/student", info={})
    assert isinstance(segkd.load_student(tmp_path / "a"), Student)
    detector = segkd.load_student(tmp_path / "b/student")
    assert isinstance(detector, DetectionStudent)
    found = detector.predict(torch.zeros(64, 96, 3, dtype=torch.uint8).numpy())
    assert set(found) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"_segkd": 1}'])
def test_a_description_that_is_none(tmp_path: Path, text: str):
    save_student(build_model("Unet", "resnet18", 2, None), tmp_path / "student", info={})
    (tmp_path / "student/config.json").write_text(text)
    with pytest.raises(SegkdError, match=r"config\.json does not describe a model"):
        segkd.load_student(tmp_path)
