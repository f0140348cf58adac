from pathlib import Path

import pytest
import torch
from networks import network
from torch import nn

from segkd.deployment.images import images_for
from segkd.deployment.signature import Reference, reference_of, resized
from segkd.training.opening import OpenedModel, open_model


def reference(run: Path, *overrides: str) -> tuple[Reference, OpenedModel]:
    opened = open_model(run, overrides)
    return reference_of(opened.network, next(iter(images_for(opened, 1)))), opened


class TestSegmentation:
    def test_images_are_normalised_and_at_the_size_of_validation(self, shipped: Path):
        found, opened = reference(shipped / "runs/distilled")
        assert (found.input, found.outputs) == ("images", ("logits",))
        assert found.size == (64, 96)
        inputs = list(map(found.input_of, images_for(opened, 20)))
        assert [image.shape for image in inputs] == [(1, 3, 64, 96)] * 3
        mean, std = (torch.tensor(found.info({})[key]).view(3, 1, 1) for key in ("mean", "std"))
        assert opened.task is not None
        assert torch.allclose(inputs[2][0], (opened.task.val_set()[2]["image"] / 255 - mean) / std, atol=1e-5)

    def test_a_size_that_the_model_cannot_take_is_rounded_up(self, shipped: Path):
        found, opened = reference(shipped / "runs/distilled", "validation.resize=[33,64]")
        assert opened.network.preprocess.multiple == 32
        assert found.size == (64, 64)
        (image,) = map(found.input_of, images_for(opened, 1))
        assert image.shape == (1, 3, 64, 64)
        assert found.run(image)[0].shape == (1, 11, 64, 64)

    def test_what_is_recorded(self, shipped: Path):
        info = reference(shipped / "runs/distilled")[0].info({0: "batch"})
        assert info["task"] == "segmentation"
        assert info["size"] == [64, 96]
        assert info["dynamic"] == ["batch"]
        assert len(info["classes"]) == len(info["colors"]) == 11
        assert info["ignore_index"] == 255
        assert info["mean"] == pytest.approx([0.485, 0.456, 0.406])

    def test_probes_try_what_may_change(self, shipped: Path):
        found, _ = reference(shipped / "runs/distilled")
        image = torch.rand(1, 3, 64, 96)
        assert [probe.shape for probe in found.probes(image, {})] == [(1, 3, 64, 96)]
        assert [probe.shape for probe in found.probes(image, {0: "batch"})] == [(1, 3, 64, 96), (3, 3, 64, 96)]
        *_, other = found.probes(image, {0: "batch", 2: "height", 3: "width"})
        assert other.shape == (3, 3, 128, 224)


class Wrapped(nn.Module):
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": 2 * images, "aux": images}


def test_of_a_model_that_returns_more_the_logits_and_means_are_of_pixels_in_0_to_1():
    of_bytes = network(Wrapped(), {"mean": [127.5] * 3, "std": [51.0] * 3}, white=255.0)
    pixels = torch.full((3, 4, 6), 255, dtype=torch.uint8)
    found = Reference(of_bytes, pixels)
    (logits,) = found.run(found.input_of(pixels))
    assert torch.equal(logits, torch.full((1, 3, 4, 6), 5.0))
    info = found.info({})
    assert (info["mean"], info["std"]) == ([0.5] * 3, [0.2] * 3)
    assert "white" not in info


class TestDetection:
    def test_an_image_goes_in_and_boxes_come_out(self, detector: Path):
        found, opened = reference(detector)
        assert (found.input, found.outputs) == ("image", ("boxes", "labels", "scores"))
        (image,) = map(found.input_of, images_for(opened, 1))
        assert image.shape == (3, *found.size)
        assert 0 <= image.min() < image.max() <= 1
        boxes, labels, scores = found.run(image)
        assert len(boxes) == len(labels) == len(scores) > 0
        assert not found.module.training
        info = found.info({})
        assert (info["task"], info["dynamic"]) == ("detection", [])

    def test_a_batch_is_a_list_for_the_model(self, detector: Path):
        found, opened = reference(detector)
        results = found.of_batch(opened.network.module)(torch.rand(2, 3, *found.size))
        assert isinstance(results, list)
        assert len(results) == 2


def test_resized_keeps_the_number_of_dimensions():
    image = torch.rand(3, 4, 6)
    assert resized(image, (4, 6)) is image
    assert resized(image, (8, 12)).shape == (3, 8, 12)
    assert torch.equal(resized(image[None], (8, 12))[0], resized(image, (8, 12)))
