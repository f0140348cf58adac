from pathlib import Path

import cv2
import numpy as np
import torch
from networks import segmenter

from segkd.deployment.images import images_for
from segkd.training.opening import OpenedModel, open_model


def opened(**settings) -> OpenedModel:
    return OpenedModel("a", segmenter(**settings).eval(), Path("a/model.safetensors"), Path("a"))


def test_they_are_spread_over_the_validation_split(shipped: Path):
    run = open_model(shipped / "runs/distilled")
    every, two = (list(images_for(run, count)) for count in (3, 2))
    assert images_for(run, 3).what == "validation images"
    assert torch.equal(two[0], every[0])
    assert torch.equal(two[1], every[2])


def test_of_a_folder_they_are_resized_as_the_model_sees_them(tmp_path):
    pixels = np.full((20, 30, 3), (1, 2, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    found = images_for(opened(size=(32, 64)), 5, tmp_path)
    assert found.what == f"images of {tmp_path}"
    (image,) = found
    assert image.shape == (3, 32, 64)
    assert image[:, 0, 0].tolist() == [3, 2, 1]


def test_noise_has_the_size_that_the_model_is_used_at():
    for settings, size in (({"size": (32, 64)}, (32, 64)), ({"recorded": {"window": 40}}, (40, 40)), ({}, (480, 640))):
        found = images_for(opened(**settings), 2)
        first, second = found
        assert first.shape == (3, *size)
        assert "noise" in found.what
        assert not torch.equal(first, second)
