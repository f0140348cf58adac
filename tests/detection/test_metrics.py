import math
import sys

import pytest
import torch
from detection.coco_reference import NAMES, pairs_of, reference, scene
from processes import in_two_processes

from segkd.detection.metrics import DetectionMetrics
from segkd.errors import SegkdError

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


def agree(measured, expected, within=1e-12):
    assert measured.keys() == expected.keys()
    for key, value in expected.items():
        assert measured[key] == pytest.approx(value, nan_ok=True, abs=within), key


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


@pytest.mark.parametrize("height", [55, 60, 80, 85])
def test_an_iou_at_a_threshold_reaches_it(height):
    found = prediction(([0.0, 0, 100, height], 1, 0.9))
    assert measure((found, target(([0.0, 0, 100, 100], 1))))["ap"] == pytest.approx((height - 45) / 50, abs=1e-9)


def test_a_recall_of_three_fifths_is_reached():
    objects = [([200.0 * place, 0, 200.0 * place + 100, 100], 1) for place in range(5)]
    found = prediction(*((box, label, 0.9) for box, label in objects[:3]))
    assert measure((found, target(*objects)))["ap"] == pytest.approx(61 / 101, abs=1e-9)  # 0.60396


@pytest.mark.parametrize(
    "settings",
    [{}, {"detections": (100, 260), "images": 4}, {"whole": True}, {"whole": True, "ties": True}, {"images": 1}],
    ids=["plain", "more than 100 detections", "whole pixels", "equal scores", "one image"],
)
@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed, settings):
    images = scene(seed, **settings)
    assert any(image["crowd"].any() for image in scene(seed))
    agree(measure(*pairs_of(images)), reference(images), 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_difficult_objects_are_crowds_that_are_matched_by_plain_iou(seed):
    images = scene(seed, difficult=True)
    measured = measure(*pairs_of(images))
    agree(measured, reference(images), 1e-9)
    as_crowds = [{**image, "crowd": image["crowd"] | image["difficult"]} for image in images]
    assert measured["ap"] != measure(*pairs_of(as_crowds))["ap"]


def test_what_is_close_to_its_neighbour_in_float32_is_told_apart():
    objects = [([200.0 * place, 0, 200.0 * place + 100, 100], 1) for place in range(2)]
    true = {**target(*objects), "area": torch.tensor([1024.00001, 1024.00001], dtype=torch.float64)}
    found = target(objects[0], ([0.0, 300, 100, 400], 1))
    scores = torch.tensor([0.5 + 1e-12, 0.5], dtype=torch.float64)
    for order in ([0, 1], [1, 0]):
        measured = measure(({key: value[order] for key, value in {**found, "scores": scores}.items()}, true))
        assert measured["ap"] == pytest.approx(51 / 101)
        assert math.isnan(measured["ap_small"])


@pytest.mark.parametrize("key", ["crowd", "difficult"])
def test_crowds_and_difficult_objects_count_neither_way(key):
    far, beside = [200.0, 200, 300, 300], [100.0, 10, 150, 60]
    true = target((far, 1), (SQUARE, 1), **{key: [True, False]})
    for found in ([(SQUARE, 1, 0.8)], [(far, 1, 0.9), (SQUARE, 1, 0.8)], [*[(far, 1, 0.9)] * 5, (SQUARE, 1, 0.8)]):
        assert measure((prediction(*found), true))["ap"] == pytest.approx(1)
    wrong = prediction((beside, 1, 0.9), (SQUARE, 1, 0.8))
    assert measure((wrong, true))["ap"] == pytest.approx(0.5)


def test_what_lies_within_a_crowd_belongs_to_it_but_not_to_a_difficult_object():
    objects = (([0.0, 0, 100, 100], 1), ([200.0, 0, 300, 100], 1))
    found = prediction(([10.0, 10, 20, 20], 1, 0.9), ([200.0, 0, 300, 100], 1, 0.5))
    for crowd, difficult, ap50 in ((True, False, 1), (False, True, 0.5), (True, True, 1)):
        true = target(*objects, crowd=[crowd, False], difficult=[difficult, False])
        assert measure((found, true))["ap50"] == pytest.approx(ap50)


def test_a_detection_takes_an_object_that_counts_before_a_difficult_one():
    # It lies nearer the difficult object, but is needed for the other.
    true = target(([0.0, 0, 100, 90], 1), ([0.0, 0, 100, 100], 1), difficult=[False, True])
    found = prediction(([0.0, 0, 100, 100], 1, 0.9), ([0.0, 0, 100, 100], 1, 0.8))
    assert measure((found, true))["ap50"] == pytest.approx(1)
    # Of another class it is as if it was not there.
    assert measure((prediction(([0.0, 0, 100, 100], 2, 0.9)), true))["ap50"] == 0


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


def test_batches_and_resets_change_nothing():
    pairs = pairs_of(scene(0))
    ours = DetectionMetrics(NAMES)
    for start in range(0, len(pairs), 5):
        batch = pairs[start : start + 5]
        ours.update([p for p, _ in batch], [t for _, t in batch])
    measured = ours.compute()
    assert 0.05 < measured["ap"] < 0.95
    agree(measure(*pairs), measured)
    ours.reset()
    ours.update([prediction((SQUARE, 1, 1.0))], [target((SQUARE, 1))])
    assert ours.compute()["ap"] == pytest.approx(1)


def test_scores_of_half_precision_and_with_gradient_are_taken():
    found = prediction((SQUARE, 1, 0.5))
    found = {"boxes": found["boxes"].requires_grad_(), "scores": found["scores"].bfloat16(), "labels": found["labels"]}
    assert measure((found, target((SQUARE, 1))))["ap"] == pytest.approx(1)


def test_more_than_100_detections_make_no_noise(capfd, recwarn):
    many = prediction(*((moved(0.9), 1, index / 200) for index in range(150)))
    measured = measure((many, target((SQUARE, 1))))
    assert measured["ap50"] == pytest.approx(1)
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


def one_of_two(rank, shares, folder):
    measured = []
    for share in shares:
        metrics = DetectionMetrics(NAMES)
        for place, pair in enumerate(pairs_of(scene(1, ties=share == "in turn"))):
            mine = place % 2 if share == "in turn" else int(place >= share)
            if mine == rank:
                metrics.update(*([part] for part in pair))
        own = len(metrics.counts)
        measured.append(metrics.compute())
        metrics.update([prediction()], [target()])  # goes on with its own images, not with the other's
        assert len(metrics.counts) == own + 1
    torch.save(measured, folder / f"{rank}.pt")


def test_two_processes_are_taken_together_however_uneven_their_shares(tmp_path):
    shares = [4, 11, 0, "in turn"]  # how many of twelve images the first process sees
    in_two_processes(one_of_two, shares, tmp_path, start="fork")
    for rank in range(2):
        for share, measured in zip(shares, torch.load(tmp_path / f"{rank}.pt", weights_only=True), strict=True):
            # Which of equal scores comes first must not depend on the number of processes either.
            agree(measured, reference(scene(1, ties=share == "in turn")), 1e-9)
