import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from networks import network, segmenter
from PIL import Image

from segkd.errors import SegkdError
from segkd.segmentation.inference import predict_logits
from segkd.segmentation.metrics import SegmentationMetrics

INFO = {
    "classes": ["sky", "road", "car"],
    "colors": [[0, 0, 0], [1, 2, 3], [4, 5, 6]],
    "ignore_index": 255,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.2, 0.2],
    "size": [64, 96],
    "dataset": "streets",
}


def picture(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


class ByHand(torch.nn.Module):
    """Logits are the normalised colours, so the class of a pixel is its brightest channel after normalising."""

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images):
        self.seen = images
        return images


def test_predict_normalises_as_recorded_and_returns_the_images_size():
    image = picture(50, 70)
    mean, std = np.array(INFO["mean"]), np.array([0.1, 0.2, 0.3])
    student = network(ByHand(), {"mean": INFO["mean"], "std": [0.1, 0.2, 0.3], "size": None})
    classes = student.predict(image)
    assert classes.dtype == np.uint8
    seen = student.module.seen[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(seen, (image / 255 - mean) / std, atol=1e-5)
    np.testing.assert_array_equal(classes, seen.argmax(-1))
    np.testing.assert_array_equal(student.predict(Image.fromarray(image)), classes)
    resized = network(ByHand(), {**INFO, "size": [20, 30]})
    assert resized.predict(image).shape == (50, 70)
    assert resized.module.seen.shape == (1, 3, 20, 30)


class Recording(ByHand):
    """What it saw, in order."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, images):
        self.batches.append(images)
        return images


PLAIN = {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]}


class TestBatch:
    def test_images_of_one_size_when_resized_go_together_and_come_back_in_order(self):
        images = [picture(50, 70), picture(20, 30), Image.fromarray(picture(50, 70)), picture(7, 9)]
        for size, shapes in (([20, 30], [(4, 3, 20, 30)]), (None, [(2, 3, 50, 70), (1, 3, 20, 30), (1, 3, 7, 9)])):
            student = network(Recording(), {**PLAIN, "size": size})
            found = student.predict(images)
            assert [tuple(batch.shape) for batch in student.module.batches] == shapes
            assert [mask.shape for mask in found] == [(50, 70), (20, 30), (50, 70), (7, 9)]
            for image, mask in zip(images, found, strict=True):
                assert mask.dtype == np.uint8
                np.testing.assert_array_equal(mask, student.predict(image))

    def test_of_nothing(self):
        assert network(ByHand(), PLAIN).predict_batch([]) == []

    @pytest.mark.parametrize("size", [None, [20, 30]])
    def test_scales_are_of_the_size_that_the_model_sees_and_resized_from_the_image_itself(self, size):
        student = network(Recording(), {**PLAIN, "size": size})
        image = picture(50, 70)
        student.predict(image, scales=(0.5, 1, 1.25))
        height, width = size or (50, 70)
        shapes = [(height // 2, width // 2), (height, width), (round(height * 1.25), round(width * 1.25))]
        assert [tuple(batch.shape[-2:]) for batch in student.module.batches] == shapes
        for batch in student.module.batches:
            expected = network(ByHand(), {**PLAIN, "size": list(batch.shape[-2:])})
            expected.predict(image)
            assert torch.equal(batch, expected.module.seen)

    def test_flip_and_scales_are_averaged(self):
        student = network(Recording(), {**PLAIN, "size": [40, 60]})
        found = student.predict(picture(50, 70), scales=(0.5, 1), flip=True)
        small, small_mirrored, usual, usual_mirrored = student.module.batches
        assert torch.equal(small_mirrored.flip(-1), small)
        assert torch.equal(usual_mirrored.flip(-1), usual)
        mean = sum(predict_logits(torch.nn.Identity(), seen, (50, 70)).softmax(1) for seen in (small, usual))
        np.testing.assert_array_equal(found, mean[0].argmax(0).numpy())

    def test_sliding_takes_the_window_given_or_the_one_recorded(self):
        image = picture(50, 70)
        student = network(Recording(), {**PLAIN, "window": [20, 30]})
        student.predict(image, mode="sliding")
        assert {tuple(batch.shape[-2:]) for batch in student.module.batches} == {(20, 30)}
        student.module.batches.clear()
        found = student.predict(image, mode="sliding", window=25, stride=25)
        assert [tuple(batch.shape[-2:]) for batch in student.module.batches] == [(25, 25)] * 6
        np.testing.assert_array_equal(found, student.predict(image))  # this model sees each pixel alone

    def test_what_is_wrong_with_options(self):
        student = network(ByHand(), PLAIN)
        for scales in ((), (0,), (1, -1), (float("nan"),), (float("inf"),)):
            with pytest.raises(SegkdError, match="scales must be one or more numbers above 0"):
                student.predict(picture(5, 5), scales=scales)
        with pytest.raises(SegkdError, match="needs a window"):
            student.predict(picture(5, 5), mode="sliding")
        with pytest.raises(SegkdError, match="window 0x0"):
            network(ByHand(), {**PLAIN, "window": [4, 4]}).predict(picture(5, 5), mode="sliding", window=0)
        with pytest.raises(SegkdError, match="'whole'"):
            student.predict(picture(5, 5), mode="hole")
        with pytest.raises(SegkdError, match="uint8"):
            student.predict([picture(5, 5), np.zeros((5, 5))])


@pytest.mark.parametrize("bad", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((5, 5, 4), np.uint8)])
def test_predict_names_a_wrong_array(bad):
    with pytest.raises(SegkdError, match="uint8"):
        network(ByHand(), {"mean": [0, 0, 0], "std": [1, 1, 1]}).predict(bad)


@pytest.mark.slow
def test_the_trained_teacher_has_the_miou_of_its_card():
    data = os.environ.get("SEGKD_DATA")
    file = Path(data or "", "..", "weights", "camvid_teacher_lite2.safetensors")
    if not data or not file.is_file():
        pytest.skip("SEGKD_DATA is not set, or no camvid_teacher_lite2.safetensors beside it")
    encoder = "tu-tf_efficientnet_lite2"
    student = segmenter("DeepLabV3Plus", encoder, 11, size=(240, 320), checkpoint=str(file)).eval()
    metrics = SegmentationMetrics(11, ignore_index=11)
    paths = sorted(Path(data, "camvid", "val").glob("*.png"))
    assert len(paths) == 101
    for path in paths:
        pred = student.predict(Image.open(path))
        label = cv2.imread(str(path.parents[1] / "valannot" / path.name), cv2.IMREAD_UNCHANGED)
        metrics.update(torch.from_numpy(pred)[None], torch.from_numpy(label)[None])
    measured = metrics.compute()
    assert measured["miou"] == pytest.approx(0.6617, abs=0.001)
    assert measured["pixel_accuracy"] == pytest.approx(0.9306, abs=0.001)
    expected = [0.932, 0.872, 0.013, 0.958, 0.860, 0.875, 0.217, 0.629, 0.817, 0.463, 0.642]
    assert measured["iou"] == pytest.approx(expected, abs=0.002)
