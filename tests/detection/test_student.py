import json

import numpy as np
import pytest
import torch
from PIL import Image

from segkd.detection.models import ARCHITECTURES, build_detector
from segkd.detection.student import DetectionStudent, load_student, save_student
from segkd.errors import SegkdError

INFO = {"classes": ["cell", "dot"], "colors": [[1, 2, 3], [4, 5, 6]], "dataset": "bccd"}


def small(arch="retinanet", options=None, **settings):
    torch.manual_seed(0)
    threshold = "box_score_thresh" if "rcnn" in arch else "score_thresh"
    options = {"out_channels": 64, threshold: 0.0, **(options or {})}  # random weights are sure of nothing
    settings = {"min_size": 64, "max_size": 96, "normalization": ((0.5,) * 3, (0.25,) * 3), **settings}
    return build_detector(arch, "mobilenet_v3_small", 2, options=options, **settings)


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("arch", "settings"),
    [(arch, {}) for arch in ARCHITECTURES]
    + [
        ("retinanet", {"options": {"assigner": "atss"}}),
        ("fcos", {"norm": "frozen", "min_size": list(range(48, 209))}),
    ],
)
def test_what_is_saved_opens_and_finds_the_same(arch, settings, tmp_path):
    model = small(arch, **settings).eval()
    save_student(model, tmp_path / "run" / "student", info=INFO)
    student = load_student(tmp_path / "run")
    assert type(student.model) is type(model)
    assert student.model.config == model.config
    assert not student.model.training
    image = torch.rand(3, 50, 70)
    with torch.no_grad():
        (expected,), (found,) = model([image]), student([image])
    assert len(expected["boxes"])
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert INFO.items() <= student.info.items()
    assert student.info["task"] == "detection"
    assert student.info["version"]
    assert load_student(tmp_path / "run" / "student").info == student.info


def test_a_student_built_on_weights_opens_without_them(tmp_path):
    torch.save(small().state_dict(), tmp_path / "a.pth")
    model = build_detector("fcos", "mobilenet_v3_small", 2, tmp_path / "a.pth", options={"out_channels": 64})
    save_student(model, tmp_path / "student", info={})
    (tmp_path / "a.pth").unlink()
    assert torch.equal(next(load_student(tmp_path).model.parameters()), next(model.parameters()))


class ByHand(torch.nn.Module):
    """Finds the bounding box of what is white."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        (self.seen,) = images
        rows, columns = torch.where(self.seen[0] == 1)
        box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        return [{"boxes": box[None], "labels": torch.tensor([1]), "scores": torch.tensor([0.5]), "masks": None}]


def test_predict_gives_the_model_the_image_in_0_to_1():
    image = picture(50, 70) // 2
    image[10:20, 30:60] = 255
    student = DetectionStudent(ByHand(), INFO)
    found = student.predict(image)
    assert sorted(found) == ["boxes", "labels", "scores"]
    np.testing.assert_array_equal(found["boxes"], np.array([[30, 10, 60, 20]], np.float32))
    assert (found["boxes"].dtype, found["labels"].dtype, found["scores"].dtype) == (np.float32, np.int64, np.float32)
    np.testing.assert_allclose(student.model.seen.permute(1, 2, 0).numpy(), image / 255, atol=1e-6)
    np.testing.assert_array_equal(student.predict(Image.fromarray(image))["boxes"], found["boxes"])


def test_boxes_are_in_the_images_own_pixels():
    """The detector resizes to 64 to 96 pixels; the boxes come back in those of the image."""
    found = DetectionStudent(small(), INFO).predict(picture(200, 300))
    assert found["boxes"][:, 2].max() > 200
    assert found["boxes"][:, 2].max() <= 300
    assert found["boxes"][:, 3].max() <= 200
    assert (np.diff(found["scores"]) <= 0).all()
    assert len(found["boxes"]) == len(found["labels"]) == len(found["scores"])


class Counting(torch.nn.Module):
    """Finds in each image one box, as large as the image."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.batches = []

    def forward(self, images):
        self.batches.append([tuple(image.shape) for image in images])
        whole = [torch.tensor([[0, 0, image.shape[2], image.shape[1]]]).float() for image in images]
        return [{"boxes": box, "labels": torch.tensor([1]), "scores": torch.tensor([0.5])} for box in whole]


def test_a_batch_holds_images_of_one_size_and_comes_back_in_order():
    images = [picture(50, 70), picture(20, 30), Image.fromarray(picture(50, 70)), picture(70, 50)]
    student = DetectionStudent(Counting(), INFO)
    found = student.predict_batch(images)
    assert student.model.batches == [[(3, 50, 70), (3, 50, 70)], [(3, 20, 30)], [(3, 70, 50)]]
    assert [each["boxes"].tolist() for each in found] == [
        [[0, 0, width, height]] for height, width in ((50, 70), (20, 30), (50, 70), (70, 50))
    ]
    assert student.predict_batch([]) == []
    with pytest.raises(SegkdError, match="uint8"):
        student.predict_batch([images[0], np.zeros((5, 5))])


@pytest.mark.parametrize("bad", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((5, 5, 4), np.uint8)])
def test_predict_names_a_wrong_array(bad):
    with pytest.raises(SegkdError, match="uint8"):
        DetectionStudent(ByHand(), {}).predict(bad)


def test_what_cannot_be_saved_writes_nothing(tmp_path):
    with pytest.raises(SegkdError, match="JSON"):
        save_student(small(), tmp_path / "student", info={"classes": {1, 2}})
    with pytest.raises(SegkdError, match="Conv2d cannot be saved as a student"):
        save_student(torch.nn.Conv2d(3, 3, 1), tmp_path / "student", info={})
    assert not list(tmp_path.iterdir())


def test_what_is_no_student(tmp_path):
    with pytest.raises(SegkdError, match="there is no run"):
        load_student(tmp_path / "absent")
    with pytest.raises(SegkdError, match="not a finished run"):
        load_student(tmp_path)
    save_student(small(), tmp_path / "student", info=INFO)
    config = tmp_path / "student" / "config.json"
    good = json.loads(config.read_text())
    for text in ("{", json.dumps({**good, "arch": "yolo"}), json.dumps({**good, "a": 1}), "{}", "[]"):
        config.write_text(text)
        with pytest.raises(SegkdError, match=r"config\.json does not describe a detector") as error:
            load_student(tmp_path)
        assert "\n" not in str(error.value)
    config.write_text(json.dumps({**good, "num_classes": 7, "_segkd": {"task": "detection"}}))
    with pytest.raises(SegkdError, match="the file has 2 classes, the model 7"):
        load_student(tmp_path)
