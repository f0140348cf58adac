import math

import pytest
import torch
from torch import Tensor

from segkd.deployment.signature import Comparison, compare_boxes, compare_logits


def logits() -> Tensor:
    """Logits (1, 3, 2, 2) of the classes 0, 1, 2, 0."""
    values = torch.zeros(1, 3, 2, 2)
    for pixel, label in enumerate((0, 1, 2, 0)):
        values.view(3, 4)[label, pixel] = 8.0
    return values


def found(*scores: float, offset: float = 0.0) -> list[Tensor]:
    boxes = torch.tensor([[10.0 * i, 0.0, 10.0 * i + 5, 5.0] for i in range(len(scores))]).reshape(-1, 4)
    return [boxes + offset, torch.arange(len(scores)) + 1, torch.tensor(scores)]


class TestComparison:
    def test_the_limit_grows_with_the_values_beyond_10(self):
        assert Comparison("logit", "pixels", 0.999).limit == 1e-4
        assert Comparison("logit", "pixels", 0.999, largest=10).limit == 1e-4
        assert Comparison("logit", "pixels", 0.999, largest=25).limit == pytest.approx(2.5e-4)

    def test_both_measures_count(self):
        assert Comparison("logit", "pixels", 0.999, difference=9.9e-5, equal=9999, total=10000).passed
        assert not Comparison("logit", "pixels", 0.999, difference=1e-4, equal=10000, total=10000).passed
        assert not Comparison("logit", "pixels", 0.999, difference=0, equal=999, total=1000).passed

    def test_without_boxes_it_says_so(self):
        assert "nothing was compared" in str(Comparison("score", "boxes", 0.99, images=20))

    def test_the_share_is_never_rounded_up(self):
        assert "99.999 % of 10000000 pixels" in str(Comparison("logit", "pixels", 0.999, equal=9999999, total=10000000))


class TestLogits:
    def test_equal(self):
        result = compare_logits([([logits()], [logits()])] * 2)
        assert (result.images, result.difference, result.largest) == (2, 0.0, 8.0)
        assert (result.equal, result.total, result.share) == (8, 8, 1.0)
        assert result.passed

    def test_the_largest_difference_of_all_and_the_pixels_of_another_class(self):
        other = logits()
        other[0, 1, 0, 0] = 9.0  # the first pixel is of class 1 now
        result = compare_logits([([logits()], [logits()]), ([logits()], [other]), ([logits()], [logits() + 0.5])])
        assert result.difference == 9.0
        assert (result.equal, result.total) == (11, 12)
        assert not result.passed

    def test_what_is_not_a_number_fails(self):
        broken = logits()
        broken[0, 0, 0, 0] = math.nan
        result = compare_logits([([logits()], [broken]), ([logits()], [logits()])])
        assert math.isnan(result.difference)
        assert not result.passed


class TestBoxes:
    def test_equal(self):
        result = compare_boxes([(found(0.9, 0.5), found(0.9, 0.5)), (found(), found())])
        assert (result.images, result.equal, result.total, result.difference) == (2, 2, 2, 0.0)
        assert result.passed

    def test_none_at_all(self):
        result = compare_boxes([(found(), found())])
        assert (result.total, result.share) == (0, 1.0)
        assert result.passed

    def test_another_place_label_or_score(self):
        assert compare_boxes([(found(0.9, 0.5), found(0.9, 0.5, offset=0.009))]).equal == 2
        assert compare_boxes([(found(0.9, 0.5), found(0.9, 0.5, offset=0.02))]).equal == 0
        boxes, labels, scores = found(0.9, 0.5)
        assert compare_boxes([([boxes, labels, scores], [boxes, labels.flip(0), scores])]).equal == 0
        assert compare_boxes([(found(0.9, 0.5), found(0.9, 0.25))]).difference == 0.25

    def test_boxes_of_one_score_may_change_places(self):
        boxes, labels, scores = found(0.5, 0.5, 0.1)
        order = [1, 0, 2]
        assert compare_boxes([([boxes, labels, scores], [boxes[order], labels[order], scores])]).share == 1.0

    def test_a_box_too_many_counts_as_different(self):
        assert compare_boxes([(found(0.9), found(0.9, 0.5))]).share == 0.5
        assert compare_boxes([(found(0.9, 0.5), found(0.9))]).share == 0.5
