"""Jitter of colours and blur that the student alone sees."""

from pathlib import Path

import pytest
import torch
from trees import make_camvid

from segkd.data.dataset import SeededDataset
from segkd.data.description import DatasetSpec, read_spec
from segkd.data.loading import train_loader
from segkd.data.transforms import train_transform

GEOMETRY = {"crop": (32, 48), "scale": (0.5, 2.0)}
JITTER = {"color_jitter": 0.5, "blur": 0.5}


@pytest.fixture
def spec(tmp_path: Path) -> DatasetSpec:
    return read_spec(make_camvid(tmp_path, train=3))


def images(spec: DatasetSpec, jitter: dict[str, float] = JITTER, **options) -> SeededDataset:
    return SeededDataset(spec, "train", train_transform(**GEOMETRY, **jitter), seed=4, **options)


def test_a_teacher_sees_the_image_before_it_to_the_last_pixel(spec):
    own, plain = images(spec, own_jitter=True), images(spec, {})
    for key in [(epoch, index) for epoch in range(4) for index in range(3)]:
        seen, bare = own[key], plain[key]
        assert torch.equal(seen["image_teacher"], bare["image"])
        assert torch.equal(seen["mask"], bare["mask"])
        assert seen["image_teacher"].dtype == seen["image"].dtype == torch.uint8
        assert not torch.equal(seen["image"], bare["image"])


def test_views_come_again_with_another_jitter(spec):
    own, shared = images(spec, own_jitter=True, views=2), images(spec, views=2)
    for index in range(3):
        first, again = own[0, index], own[2, index]
        for key in ("image_teacher", "mask", "epoch"):
            assert torch.as_tensor(first[key]).equal(torch.as_tensor(again[key]))
        assert not torch.equal(first["image"], again["image"])
        assert torch.equal(own[2, index]["image"], again["image"])
        assert torch.equal(shared[0, index]["image"], shared[2, index]["image"])


def test_images_without_labels_have_it_too(spec):
    extra = [spec.resolve_root() / "val/0001TP_000000.png"]
    batch = next(iter(train_loader(images(spec, own_jitter=True, unlabelled=extra), batch_size=2, share=1)))
    assert batch["labelled"].tolist() == [True, False]
    assert all(not torch.equal(*pair) for pair in zip(batch["image"], batch["image_teacher"], strict=True))


def test_without_jitter_there_is_but_one_image(spec):
    assert "image_teacher" not in images(spec, {}, own_jitter=True)[0]
    assert "image_teacher" not in images(spec)[0]
