from typing import Any

import pytest
import torch
from detection.detectors import CLASSES, NO_BOXES, batch

from segkd.detection.targets import check_batch
from segkd.errors import SegkdError

IMAGES, TARGETS = batch()
BOX, LABEL = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([1])


def test_what_is_sound() -> None:
    check_batch(IMAGES, TARGETS, CLASSES)
    check_batch(IMAGES, [NO_BOXES] * 2, CLASSES)
    check_batch(IMAGES, [{"boxes": BOX - 500, "labels": LABEL}, NO_BOXES], CLASSES)  # beyond the image


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ({"labels": LABEL}, r"targets\[1\]\['boxes'\] must be float \(M, 4\), got NoneType"),
        ({"boxes": BOX.long(), "labels": LABEL}, r"\['boxes'\] must be float \(M, 4\), got torch.int64 \(1, 4\)"),
        ({"boxes": BOX[0], "labels": LABEL}, r"must be float \(M, 4\), got torch.float32 \(4,\)"),
        ({"boxes": BOX}, r"targets\[1\]\['labels'\] must be int64 \(1,\), got NoneType"),
        ({"boxes": BOX, "labels": LABEL[:0]}, r"must be int64 \(1,\), got torch.int64 \(0,\)"),
        ({"boxes": BOX, "labels": LABEL.float()}, r"must be int64 \(1,\), got torch.float32 \(1,\)"),
    ],
)
def test_wrong_shapes_and_types(target: dict[str, Any], says: str) -> None:
    with pytest.raises(SegkdError, match=says):
        check_batch(IMAGES, [TARGETS[0], target], CLASSES)


@pytest.mark.parametrize(
    ("box", "label"),
    [
        ([1.0, 2.0, 1.0, 4.0], 1),
        ([1.0, 4.0, 3.0, 2.0], 1),
        ([1.0, 2.0, float("nan"), 4.0], 1),
        ([float("-inf"), 2.0, 3.0, 4.0], 1),
        ([1.0, 2.0, 3.0, 4.0], 0),
        ([1.0, 2.0, 3.0, 4.0], CLASSES + 1),
    ],
)
def test_wrong_values_name_the_box(box: list[float], label: int) -> None:
    target = {"boxes": torch.cat([BOX, torch.tensor([box])]), "labels": torch.tensor([1, label])}
    with pytest.raises(SegkdError, match=r"targets\[1\]: box 1 is") as error:
        check_batch(IMAGES, [TARGETS[0], target], CLASSES)
    assert f"{box}, label {label}: " in str(error.value)
    assert "labels lie in 1..2" in str(error.value)


@pytest.mark.parametrize(("images", "targets"), [(IMAGES, TARGETS[:1]), (IMAGES[:1], TARGETS), ([], [])])
def test_one_target_per_image(images: list[Any], targets: list[Any]) -> None:
    with pytest.raises(SegkdError, match=f"one target per image, got {len(targets)} for {len(images)} images"):
        check_batch(images, targets, CLASSES)


@pytest.mark.parametrize("image", [torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8), "cat.jpg"])
def test_wrong_images(image: Any) -> None:
    with pytest.raises(SegkdError, match=r"images\[1\] must be a float tensor \(3, H, W\) in \[0, 1\], got "):
        check_batch([IMAGES[0], image], TARGETS, CLASSES)
