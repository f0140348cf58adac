from pathlib import Path

import pytest
import torch
from experiments import write

from segkd.deployment.subjects import DetectionSubject, SegmentationSubject, open_run, resized, subject_of
from segkd.errors import SegkdError
from segkd.models.saved import load_student


def subject(run: Path, *overrides: str) -> SegmentationSubject | DetectionSubject:
    run_, task = open_run(run, overrides)
    found = subject_of(task, load_student(run_.student), task.val_set())
    assert isinstance(found, SegmentationSubject | DetectionSubject)
    return found


class TestSegmentation:
    def test_images_are_normalised_and_at_the_size_of_validation(self, shipped: Path):
        found = subject(shipped / "runs/distilled")
        assert isinstance(found, SegmentationSubject)
        assert found.size == (64, 96)
        dataset = found.task.val_set()
        images = list(found.images(dataset, 20))
        assert [image.shape for image in images] == [(1, 3, 64, 96)] * 3
        mean, std = (torch.tensor(found.info({})[key]).view(3, 1, 1) for key in ("mean", "std"))
        assert torch.allclose(images[2][0], (dataset[2]["image"] / 255 - mean) / std, atol=1e-5)

    def test_they_are_spread_over_the_split(self, shipped: Path):
        found = subject(shipped / "runs/distilled")
        every, two = (list(found.images(found.task.val_set(), count)) for count in (3, 2))
        assert torch.equal(two[0], every[0])
        assert torch.equal(two[1], every[2])

    def test_a_size_that_the_model_cannot_take_is_rounded_up(self, shipped: Path):
        found = subject(shipped / "runs/distilled", "validation.resize=[33,64]")
        assert found.multiple == 32
        assert found.size == (64, 64)
        (image,) = found.images(found.task.val_set(), 1)
        assert image.shape == (1, 3, 64, 64)
        assert found.run(image)[0].shape == (1, 11, 64, 64)

    def test_what_is_recorded(self, shipped: Path):
        found = subject(shipped / "runs/distilled")
        info = found.info({0: "batch"})
        assert info["task"] == "segmentation"
        assert info["size"] == [64, 96]
        assert info["dynamic"] == ["batch"]
        assert len(info["classes"]) == len(info["colors"]) == 11
        assert info["ignore_index"] == 255
        assert info["mean"] == pytest.approx([0.485, 0.456, 0.406])

    def test_probes_try_what_may_change(self, shipped: Path):
        found = subject(shipped / "runs/distilled")
        image = torch.rand(1, 3, 64, 96)
        assert [probe.shape for probe in found.probes(image, {})] == [(1, 3, 64, 96)]
        assert [probe.shape for probe in found.probes(image, {0: "batch"})] == [(1, 3, 64, 96), (3, 3, 64, 96)]
        *_, other = found.probes(image, {0: "batch", 2: "height", 3: "width"})
        assert other.shape == (3, 3, 128, 224)


class TestDetection:
    def test_an_image_goes_in_and_boxes_come_out(self, detector: Path):
        found = subject(detector)
        assert isinstance(found, DetectionSubject)
        image = next(iter(found.images(found.task.val_set(), 1)))
        assert image.shape == (3, *found.size)
        assert 0 <= image.min() < image.max() <= 1
        boxes, labels, scores = found.run(image)
        assert len(boxes) == len(labels) == len(scores) > 0
        assert not found.network.training
        info = found.info({})
        assert (info["task"], info["dynamic"]) == ("detection", [])

    def test_a_batch_is_a_list_for_the_model(self, detector: Path):
        found = subject(detector)
        batch = torch.rand(2, 3, *found.size)
        results = found.of_batch(found.student.model)(batch)
        assert isinstance(results, list)
        assert len(results) == 2


def test_resized_keeps_the_number_of_dimensions():
    image = torch.rand(3, 4, 6)
    assert resized(image, (4, 6)) is image
    assert resized(image, (8, 12)).shape == (3, 8, 12)
    assert torch.equal(resized(image[None], (8, 12))[0], resized(image, (8, 12)))


class TestRuns:
    def test_no_run(self, tmp_path: Path):
        with pytest.raises(SegkdError, match="no run directory"):
            open_run(tmp_path)

    def test_one_that_is_not_finished(self, shipped: Path, tmp_path: Path):
        write(tmp_path / "config.yaml", (shipped / "runs/distilled/config.yaml").read_text())
        with pytest.raises(SegkdError, match=rf"is not finished: go on with 'segkd train --resume {tmp_path}'"):
            open_run(tmp_path)
