import math
import socket
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torchmetrics.detection import MeanAveragePrecision

from segkd.detection.metrics import DetectionMetrics
from segkd.errors import SegkdError

NAMES = ["cat", "dog", "bird"]
SQUARE = [10.0, 10.0, 60.0, 60.0]  # 50 x 50: medium


def target(*objects, **extra):
    """Boxes and labels of (box, label) pairs."""
    return {
        "boxes": torch.tensor([box for box, _ in objects]).reshape(-1, 4).float(),
        "labels": torch.tensor([label for _, label in objects], dtype=torch.long),
        **{key: torch.tensor(value) for key, value in extra.items()},
    }


def prediction(*objects):
    """Of (box, label, score) triples."""
    scores = torch.tensor([score for *_, score in objects])
    return {**target(*((box, label) for box, label, _ in objects)), "scores": scores}


def measure(*pairs):
    metrics = DetectionMetrics(NAMES)
    for predicted, true in pairs:
        metrics.update([predicted], [true])
    return metrics.compute()


def agree(measured, expected):
    assert measured.keys() == expected.keys()
    for key, value in expected.items():
        assert measured[key] == pytest.approx(value, nan_ok=True, abs=1e-6), key


def moved(share):
    """The square moved to the right so far that the IoU with its old place is ``share``."""
    shift = 50 * (1 - share) / (1 + share)
    return [10 + shift, 10, 60 + shift, 60]


def test_all_found_is_one_and_absent_classes_and_sizes_are_nan():
    measured = measure((prediction((SQUARE, 1, 0.4), ([0, 0, 9, 9], 2, 0.9)), target((SQUARE, 1), ([0, 0, 9, 9], 2))))
    one = {"ap": 1.0, "ap50": 1.0, "ap75": 1.0, "ap_small": 1.0, "ap_medium": 1.0, "ap_large": math.nan}
    agree(measured, {**one, "class_ap": [1.0, 1.0, math.nan], "class_ap50": [1.0, 1.0, math.nan]})


def test_the_iou_decides_at_which_thresholds_a_box_is_found():
    measured = measure((prediction((moved(0.62), 2, 0.9)), target((SQUARE, 2))))
    assert measured["ap"] == pytest.approx(0.3)  # 0.50, 0.55 and 0.60 of ten thresholds
    assert (measured["ap50"], measured["ap75"]) == (1, 0)
    assert measured["class_ap"] == pytest.approx([math.nan, 0.3, math.nan], nan_ok=True)
    assert measured["class_ap50"] == pytest.approx([math.nan, 1, math.nan], nan_ok=True)


def test_what_is_missed_and_what_is_made_up():
    far = [200.0, 200, 240, 240]
    missed = measure((prediction((SQUARE, 1, 0.9)), target((SQUARE, 1), (far, 1))))
    assert missed["ap50"] == pytest.approx(51 / 101)  # precision 1 at recalls 0 to 0.5, of 101
    made_up = measure((prediction((SQUARE, 1, 0.5), (far, 1, 0.9)), target((SQUARE, 1))))
    assert made_up["ap50"] == pytest.approx(0.5)
    harmless = measure((prediction((SQUARE, 1, 0.9), (far, 1, 0.5)), target((SQUARE, 1))))
    assert harmless["ap50"] == pytest.approx(1)
    wrong_class = measure((prediction((SQUARE, 2, 0.9)), target((SQUARE, 1))))
    assert (wrong_class["ap50"], wrong_class["class_ap50"][0]) == (0, 0)
    assert math.isnan(wrong_class["class_ap50"][1])


@pytest.mark.parametrize("key", ["crowd", "difficult"])
def test_crowds_and_difficult_objects_count_neither_way(key):
    far, beside = [200.0, 200, 300, 300], [100.0, 10, 150, 60]
    found = prediction((far, 1, 0.9), (SQUARE, 1, 0.8))
    ignored = {key: [True, False]}
    assert measure((found, target((far, 1), (SQUARE, 1), **ignored)))["ap"] == pytest.approx(1)
    assert measure((prediction((SQUARE, 1, 0.8)), target((far, 1), (SQUARE, 1), **ignored)))["ap"] == pytest.approx(1)
    # Each of many detections within a crowd is passed over; the same beside it is wrong.
    within = [([200.0 + 10 * i, 210, 240 + 10 * i, 250], 1, 0.9) for i in range(5)]
    assert measure((prediction(*within, (SQUARE, 1, 0.8)), target((far, 1), (SQUARE, 1), **ignored)))["ap"] == 1
    wrong = prediction((beside, 1, 0.9), (SQUARE, 1, 0.8))
    assert measure((wrong, target((far, 1), (SQUARE, 1), **ignored)))["ap"] == pytest.approx(0.5)


def test_an_area_that_is_given_decides_what_is_small():
    small = measure((prediction((SQUARE, 1, 0.9)), target((SQUARE, 1), area=[900.0])))
    assert (small["ap_small"], math.isnan(small["ap_medium"])) == (1, True)
    large = measure((prediction((SQUARE, 1, 0.9)), target((SQUARE, 1), area=[9999.0])))
    assert (large["ap_large"], math.isnan(large["ap_medium"])) == (1, True)


def test_images_without_boxes_or_predictions():
    good = (prediction((SQUARE, 1, 0.6)), target((SQUARE, 1)))
    assert measure(good, (prediction(), target()))["ap"] == pytest.approx(1)
    assert measure(good, (prediction(), target((SQUARE, 1))))["ap"] == pytest.approx(51 / 101)
    assert measure(good, (prediction((SQUARE, 1, 0.9)), target()))["ap"] == pytest.approx(0.5)
    for nothing in (measure((prediction(), target())), measure((prediction((SQUARE, 1, 0.9)), target()))):
        assert math.isnan(nothing["ap"])
        assert all(math.isnan(value) for value in nothing["class_ap"])
    assert measure((prediction(), target((SQUARE, 3))))["class_ap"][2] == 0


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_at_all_is_nan():
    assert all(math.isnan(value) for value in DetectionMetrics(NAMES).compute()["class_ap50"])


def images(count, seed=0):
    """Random images: of each some objects, found more or less, and some detections out of nothing."""
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        boxes = torch.rand(index % 4, 4, generator=generator) * 100
        boxes[:, 2:] += boxes[:, :2] + 5
        noise = torch.rand(index % 3, 4, generator=generator) * 100
        noise[:, 2:] += noise[:, :2] + 5
        labels = torch.randint(1, 4, (len(boxes) + len(noise),), generator=generator)
        found = torch.cat([boxes + torch.randn(boxes.shape, generator=generator) * 4, noise])
        yield (
            {"boxes": found, "labels": labels, "scores": torch.rand(len(found), generator=generator)},
            {"boxes": boxes, "labels": labels[: len(boxes)]},
        )


def test_equals_torchmetrics_class_by_class_however_it_is_batched():
    pairs = list(images(30))
    theirs = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True)
    theirs.update([p for p, _ in pairs], [t for _, t in pairs])
    expected = theirs.compute()
    ours = DetectionMetrics(NAMES)
    for start in range(0, 30, 7):
        batch = pairs[start : start + 7]
        ours.update([p for p, _ in batch], [t for _, t in batch])
    measured = ours.compute()
    assert 0.05 < measured["ap"] < 0.95
    for key, name in (("ap", "map"), ("ap50", "map_50"), ("ap75", "map_75"), ("ap_small", "map_small")):
        assert measured[key] == pytest.approx(float(expected[name]), abs=1e-6)
    assert expected["classes"].tolist() == [1, 2, 3]
    assert measured["class_ap"] == pytest.approx(expected["map_per_class"].tolist(), abs=1e-6)
    assert sum(measured["class_ap50"]) / 3 == pytest.approx(measured["ap50"])
    agree(measure(*pairs), measured)
    ours.reset()
    ours.update(*([part] for part in (prediction((SQUARE, 1, 1.0)), target((SQUARE, 1)))))
    assert ours.compute()["ap"] == pytest.approx(1)


def test_scores_of_half_precision_and_with_gradient_are_taken():
    found = prediction((SQUARE, 1, 0.5))
    found = {"boxes": found["boxes"].requires_grad_(), "scores": found["scores"].bfloat16(), "labels": found["labels"]}
    assert measure((found, target((SQUARE, 1))))["ap"] == pytest.approx(1)


def test_more_than_100_detections_make_no_noise(capfd, recwarn):
    many = prediction(*((moved(0.9), 1, index / 200) for index in range(150)))
    assert measure((many, target((SQUARE, 1))))["ap50"] == pytest.approx(1)
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn if "detections" in str(warning.message)] == []


def test_what_does_not_go_together_is_named():
    metrics = DetectionMetrics(NAMES)
    with pytest.raises(SegkdError, match="predictions of 1 images for 2 targets"):
        metrics.update([prediction()], [target(), target()])
    with pytest.raises(SegkdError, match="labels 1 to 3 met the prediction 4"):
        metrics.update([prediction((SQUARE, 4, 0.5))], [target()])
    with pytest.raises(SegkdError, match="labels 1 to 3 met the target 0"):
        metrics.update([prediction()], [target((SQUARE, 0))])


def test_without_its_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(SegkdError, match=r'pip install "segkd\[detection\]"'):
        DetectionMetrics(NAMES)


def one_of_two(rank, port, shares, results):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.set_num_threads(1)
    measured = []
    for share in shares:
        metrics = DetectionMetrics(NAMES)
        for index, (predicted, true) in enumerate(images(9)):
            if (index < share) == (rank == 0):
                metrics.update([predicted], [true])
        measured.append(metrics.compute())
        if share:
            metrics.update([prediction()], [target()])  # goes on with its own images, not with the other's
            assert len(metrics.counts) == (share if rank == 0 else 9 - share) + 1
    results[rank] = measured
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_taken_together_however_uneven_their_shares():
    shares = [4, 8, 0]  # of nine images how many the first process sees
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    expected = measure(*images(9))
    with mp.Manager() as manager:
        results = manager.dict()
        mp.spawn(one_of_two, args=(port, shares, results), nprocs=2)
        for rank in range(2):
            for measured in results[rank]:
                agree(measured, expected)
