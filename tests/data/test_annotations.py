from pathlib import Path

import numpy as np
import pytest

from segkd.data.annotations import Box, Found
from segkd.data.boxes import BoxSamples

NAN, INF = float("nan"), float("inf")


def annotate(*boxes: Box, sizes=((40, 60), (20, 30))) -> BoxSamples:
    found = Found([Path(f"{i}.jpg") for i in range(len(sizes))], list(sizes), list(boxes))
    return BoxSamples(None, "train", found)


def test_each_image_gets_its_own_boxes_in_the_order_of_the_file():
    found = annotate(
        Box(1, (1, 2, 3, 4), 5), Box(0, (2, 2, 9, 9), 1, crowd=True), Box(1, (5, 6, 7, 9), 2, area=3.5, difficult=True)
    )
    first, second = found.of(0), found.of(1)
    np.testing.assert_array_equal(first.boxes, [[2, 2, 9, 9]])
    np.testing.assert_array_equal(second.boxes, [[1, 2, 3, 4], [5, 6, 7, 9]])
    assert (first.labels.tolist(), second.labels.tolist()) == ([1], [5, 2])
    assert (first.areas.tolist(), second.areas.tolist()) == ([49], [4, 3.5])
    assert (first.crowd.tolist(), second.crowd.tolist()) == ([True], [False, False])
    assert (first.difficult.tolist(), second.difficult.tolist()) == ([False], [False, True])
    assert [values.dtype for values in second[:5]] == [np.float32, np.int64, np.float32, bool, bool]
    assert second.masks is None
    assert len(found) == 2
    assert found.dropped == {}


def test_images_without_boxes_stay():
    found = annotate(Box(1, (1, 2, 3, 4), 5), sizes=((9, 9), (9, 9), (9, 9)))
    assert [len(found.of(index).labels) for index in range(3)] == [0, 1, 0]
    assert found.of(0).boxes.shape == (0, 4)
    assert len(annotate(sizes=())) == 0
    assert annotate().of(0).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        ((5, 5, 5, 9), "zero area"),
        ((5, 5, 9, 5), "zero area"),
        ((9, 5, 5, 9), "inverted"),
        ((5, 9, 9, 5), "inverted"),
        ((60, 0, 70, 10), "outside the image"),
        ((-9, 0, 0, 10), "outside the image"),
        ((0, 40, 10, 50), "outside the image"),
        ((1e9, 1e9, 2e9, 2e9), "outside the image"),
        ((NAN, 0, 1, 1), "not finite"),
        ((0, 0, INF, 1), "not finite"),
    ],
)
def test_a_box_that_is_none_is_dropped_for_one_reason(corners, reason):
    found = annotate(Box(0, (1, 1, 4, 4), 3), Box(0, corners, 1), Box(0, (2, 2, 4, 4), 2))
    assert {key: len(lines) for key, lines in found.dropped.items()} == {reason: 1}
    assert found.dropped[reason][0].startswith("0.jpg: box [")
    assert found.of(0).labels.tolist() == [3, 2]


def test_a_box_partly_outside_is_clipped():
    found = annotate(Box(0, (-3.5, -1, 70, 50), 1), Box(0, (50.25, 30.5, 60.1, 40.2), 2))
    np.testing.assert_array_equal(found.of(0).boxes, np.float32([[0, 0, 60, 40], [50.25, 30.5, 60, 40]]))
    assert found.of(0).areas.tolist() == pytest.approx([2400, 9.75 * 9.5])
    assert found.dropped == {}


def test_dropped_boxes_are_counted_over_all_images():
    found = annotate(*(Box(index % 2, (4, 4, 4, 8), 1) for index in range(5)), Box(1, (8, 4, 4, 8), 1))
    assert found.dropped == {
        "zero area": ["0.jpg: box [4, 4, 4, 8]"] * 3 + ["1.jpg: box [4, 4, 4, 8]"] * 2,
        "inverted": ["1.jpg: box [8, 4, 4, 8]"],
    }


def test_masks_keep_to_their_boxes_when_others_are_dropped():
    def square(left):
        return [np.array([[left, 0], [left + 2, 0], [left + 2, 2], [left, 2]], dtype=float)]

    boxes = [Box(0, (left, 0, left + extent, 2), 1, shape=square(left)) for left, extent in ((0, 2), (4, 0), (8, 2))]
    masks = annotate(*boxes, sizes=((5, 12), (3, 4))).masks(0)
    assert (masks.shape, masks.dtype) == ((2, 5, 12), np.uint8)
    assert [np.nonzero(mask.any(0))[0].tolist() for mask in masks] == [[0, 1], [8, 9]]
    assert annotate(*boxes, sizes=((5, 12), (3, 4))).masks(1).shape == (0, 3, 4)
