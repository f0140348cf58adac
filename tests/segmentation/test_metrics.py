import math

import numpy as np
import pytest
import torch
from processes import in_two_processes

from segkd.errors import SegkdError
from segkd.segmentation.metrics import SegmentationMetrics


def by_hand(pred, target, classes, ignore_index):
    """Each measure from its own definition, without a confusion matrix."""
    keep = target != ignore_index
    pred, target = pred[keep], target[keep]
    iou, accuracy = [], []
    for c in range(classes):
        union = ((pred == c) | (target == c)).sum()
        iou.append(((pred == c) & (target == c)).sum() / union if union else math.nan)
        if (target == c).any():
            accuracy.append((pred[target == c] == c).mean())
    return {
        "miou": np.nanmean(iou),
        "pixel_accuracy": (pred == target).mean(),
        "class_accuracy": np.mean(accuracy),
        "iou": iou,
    }


def agree(measured, expected):
    assert measured.keys() == expected.keys()
    for key, value in expected.items():
        assert measured[key] == pytest.approx(value, nan_ok=True), key


def batches():
    """Three batches of predictions and labels of 6 classes: 4 never occurs, 5 only as prediction, 255 is ignored."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        target = rng.choice([0, 1, 2, 3, 255], (2, 8, 9), p=[0.4, 0.3, 0.1, 0.1, 0.1])
        pred = np.where(rng.random(target.shape) < 0.7, target, rng.choice([0, 1, 2, 3, 5], target.shape))
        yield np.where(pred == 255, 0, pred), target


def test_equals_the_definitions_over_the_whole_set():
    metrics = SegmentationMetrics(6)
    for pred, target in batches():
        metrics.update(torch.from_numpy(pred), torch.from_numpy(target))
    pred, target = (np.concatenate(parts) for parts in zip(*batches(), strict=True))
    measured = metrics.compute()
    agree(measured, by_hand(pred, target, 6, 255))
    assert math.isnan(measured["iou"][4])
    assert measured["iou"][5] == 0
    metrics.reset()
    assert metrics.confusion.sum() == 0


def test_one_matrix_is_not_the_mean_over_images():
    metrics = SegmentationMetrics(2)
    metrics.update(torch.tensor([[[0, 0, 0, 0]]]), torch.tensor([[[0, 0, 0, 0]]]))
    metrics.update(torch.tensor([[[0, 1, 1, 1]]]), torch.tensor([[[0, 0, 1, 1]]]))
    assert metrics.compute()["miou"] == pytest.approx((5 / 6 + 2 / 3) / 2)


def test_logits_and_small_integer_labels():
    logits = torch.randn(2, 5, 6, 7)
    target = torch.randint(0, 5, (2, 6, 7), dtype=torch.uint8)
    target[0, 0] = 255
    first, second = SegmentationMetrics(5), SegmentationMetrics(5)
    first.update(logits, target)
    second.update(logits.argmax(1).to(torch.uint8), target.long())
    assert torch.equal(first.confusion, second.confusion)
    assert first.confusion.sum() == target.numel() - 7


def test_ignored_images_count_for_nothing():
    metrics = SegmentationMetrics(3, ignore_index=11)
    nothing = torch.full((1, 4, 4), 11)
    metrics.update(torch.zeros(1, 4, 4, dtype=torch.long), nothing)
    empty = metrics.compute()
    assert all(math.isnan(value) for value in (empty["miou"], empty["pixel_accuracy"], *empty["iou"]))
    metrics.update(torch.ones(1, 4, 4, dtype=torch.long), torch.ones(1, 4, 4, dtype=torch.long))
    assert metrics.compute()["miou"] == 1
    assert metrics.compute()["pixel_accuracy"] == 1


def test_what_is_no_class_or_no_pair_is_named():
    metrics = SegmentationMetrics(3, ignore_index=255)
    with pytest.raises(SegkdError, match="the label 7"):
        metrics.update(torch.zeros(1, 2, 2), torch.full((1, 2, 2), 7))
    with pytest.raises(SegkdError, match="the prediction 3"):
        metrics.update(torch.full((1, 2, 2), 3), torch.zeros(1, 2, 2))
    with pytest.raises(SegkdError, match=r"\(1, 3, 4, 4\) and \(1, 2, 2\)"):
        metrics.update(torch.zeros(1, 3, 4, 4), torch.zeros(1, 2, 2))
    assert metrics.confusion.sum() == 0


def one_of_two(rank, folder):
    metrics = SegmentationMetrics(6)
    for index, (pred, target) in enumerate(batches()):  # three batches over two processes: an uneven share
        if index % 2 == rank:
            metrics.update(torch.from_numpy(pred), torch.from_numpy(target))
    torch.save(metrics.compute(), folder / f"{rank}.pt")


def test_two_processes_are_summed(tmp_path):
    in_two_processes(one_of_two, tmp_path, start="fork")
    pred, target = (np.concatenate(parts) for parts in zip(*batches(), strict=True))
    for rank in range(2):
        agree(torch.load(tmp_path / f"{rank}.pt", weights_only=True), by_hand(pred, target, 6, 255))
