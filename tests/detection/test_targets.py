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
    beyond = torch.tensor([[-50.0, -50.0, 1.0, 1.0], [99.0, 127.0, 500.0, 500.0]])  # of an image of 100 x 128
    check_batch(IMAGES, [{"boxes": beyond, "labels": LABEL.repeat(2)}, NO_BOXES], CLASSES)
    check_batch(torch.stack(IMAGES[1:]), TARGETS[1:], CLASSES)


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
        ([128.0, 2.0, 140.0, 4.0], 1),
        ([1.0, 128.0, 3.0, 140.0], 1),
        ([-9.0, 2.0, 0.0, 4.0], 1),
        ([1.0, 2.0, 3.0, 4.0], 0),
        ([1.0, 2.0, 3.0, 4.0], CLASSES + 1),
    ],
)
def test_wrong_values_name_the_box(box: list[float], label: int) -> None:
    target = {"boxes": torch.cat([BOX, torch.tensor([box])]), "labels": torch.tensor([1, label])}
    with pytest.raises(SegkdError, match=r"targets\[1\]: box 1 is") as error:
        check_batch(IMAGES, [TARGETS[0], target], CLASSES)
    assert f"{box}, label {label}: " in str(error.value)
    assert "inside its image, 128x128 (width x height), and labels lie in 1..2" in str(error.value)


@pytest.mark.parametrize(
    ("images", "targets"), [(IMAGES, TARGETS[:1]), (IMAGES[:1], TARGETS), ([], []), (IMAGES, None)]
)
def test_one_target_per_image(images: list[Any], targets: list[Any] | None) -> None:
    given = "none" if targets is None else len(targets)
    with pytest.raises(SegkdError, match=f"one target per image, got {given} for {len(images)} images"):
        check_batch(images, targets, CLASSES)


@pytest.mark.parametrize("targets", [{"boxes": BOX, "labels": LABEL}, torch.zeros(2, 4), [TARGETS[0], None]])
def test_targets_that_are_no_list_of_dicts(targets: Any) -> None:
    with pytest.raises(SegkdError, match="targets must be a list of dicts with 'boxes' and 'labels', got "):
        check_batch(IMAGES, targets, CLASSES)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8),
        torch.zeros(8, 8, 3),
        torch.zeros(3, 0, 8),
        "cat.jpg",
    ],
)
def test_wrong_images(image: Any) -> None:
    with pytest.raises(SegkdError, match=r"images\[1\] must be a float tensor \(3, H, W\) in \[0, 1\], got "):
        check_batch([IMAGES[0], image], TARGETS, CLASSES)
