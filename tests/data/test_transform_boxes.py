from typing import NamedTuple

import numpy as np
import pytest

from segkd.data.annotations import Objects
from segkd.data.transforms import MEAN_COLOR, MIN_VISIBILITY, eval_transform, train_transform
from segkd.errors import SegkdError

SIZE = (120, 160)
BOXES = np.float32([[10, 12, 50, 40], [60, 20, 90, 100], [100, 50, 150, 110]])


def scene():
    """An image that is red, green and blue within the three boxes, and their masks."""
    masks = np.zeros((3, *SIZE), np.uint8)
    image = np.zeros((*SIZE, 3), np.uint8)
    for index, (left, top, right, bottom) in enumerate(BOXES.astype(int)):
        masks[index, top:bottom, left:right] = 1
        image[top:bottom, left:right, index] = 200
    return image, masks


class Moved(NamedTuple):
    image: np.ndarray
    boxes: np.ndarray
    kept: np.ndarray
    masks: np.ndarray | None


def move(transform, image, boxes, masks=None, seed=0):
    """Transform objects whose labels are their numbers: those of the ones that are kept say which they are."""
    count = len(boxes)
    flags = np.zeros(count, bool)
    objects = Objects(boxes, np.arange(count), np.ones(count, np.float32), flags, flags, masks)
    out = transform(image, objects, seed)
    return Moved(out.image, out.label.boxes, out.label.labels, out.label.masks)


def extent(inside):
    rows, columns = np.nonzero(inside)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def test_without_options_all_passes_unchanged():
    image, masks = scene()
    for transform in (train_transform(flip=0.0), eval_transform()):
        out = move(transform, image, BOXES, masks, seed=3)
        np.testing.assert_array_equal(out.image, image)
        np.testing.assert_allclose(out.boxes, BOXES, atol=1e-4)
        np.testing.assert_array_equal(out.masks, masks)
        assert out.kept.tolist() == [0, 1, 2]
        assert (out.boxes.dtype, out.kept.dtype, out.masks.dtype) == (np.float32, np.int64, np.uint8)


@pytest.mark.parametrize(
    "options",
    [
        {"flip": 1.0},
        {"crop": (80, 90)},
        {"crop": (200, 220)},
        {"resize": (60, 240), "flip": 0.5},
        {"scale": (0.5, 2.0), "crop": (100, 110), "flip": 0.5},
    ],
)
def test_boxes_and_masks_stay_where_their_objects_are(options):
    image, masks = scene()
    transform = train_transform(**options)
    seen = 0
    for seed in range(30):
        out = move(transform, image, BOXES, masks, seed)
        assert out.masks.shape == (len(out.kept), *out.image.shape[:2])
        for box, index, mask in zip(out.boxes, out.kept, out.masks, strict=True):
            drawn = (out.image[..., index] >= 100) & (out.image.min(-1) == 0)  # padding is grey
            tolerance = 1.0 if {"scale", "resize"} & options.keys() else 1e-3
            np.testing.assert_allclose(box, extent(drawn), atol=tolerance)
            np.testing.assert_allclose(box, extent(mask), atol=tolerance)
            seen += 1
    assert seen > 40


def test_boxes_end_at_the_crop_and_those_hardly_visible_are_dropped():
    image = np.zeros((100, 100, 3), np.uint8)
    transform = train_transform(crop=(100, 40), flip=0.0)
    boxes = np.float32([[0, 0, 100, 100], [30, 10, 60, 40]])
    shares, left_out = [], 0
    for seed in range(200):
        out = move(transform, image, boxes, None, seed)
        assert (out.boxes >= 0).all()
        assert (out.boxes <= (40, 100, 40, 100)).all()
        np.testing.assert_array_equal(out.boxes[0], [0, 0, 40, 100])
        shares += ((out.boxes[1:, 2] - out.boxes[1:, 0]) / 30).tolist()
        left_out += len(out.kept) == 1
    assert MIN_VISIBILITY <= min(shares) < 0.2
    assert max(shares) == pytest.approx(1)
    assert left_out > 0


def test_specks_are_dropped_in_training_only():
    image = np.zeros((40, 40, 3), np.uint8)
    boxes = np.float32([[5, 5, 5.5, 30], [8, 8, 30, 8.9], [3, 3, 9, 9], [1, 1, 2, 2], [39.99999, 0, 40, 40]])
    assert move(train_transform(flip=0.0), image, boxes).kept.tolist() == [2, 3]
    out = move(eval_transform((80, 20)), image, boxes)
    assert out.kept.tolist()[:4] == [0, 1, 2, 3]
    np.testing.assert_allclose(out.boxes[:4], boxes[:4] * (0.5, 2, 0.5, 2), atol=1e-4)


def test_without_boxes_there_are_none_after():
    image, masks = scene()
    nothing = np.zeros((0, 4), np.float32)
    for transform in (train_transform(crop=(50, 60), scale=(0.5, 2.0)), eval_transform((50, 60)), eval_transform()):
        out = move(transform, image, nothing, masks[:0], seed=1)
        assert (out.boxes.shape, out.kept.shape) == ((0, 4), (0,))
        assert out.masks.shape == (0, *out.image.shape[:2])
        assert move(transform, image, nothing).masks is None
    far = train_transform(crop=(20, 20), flip=0.0)
    outs = [move(far, image, BOXES[:1], masks[:1], seed) for seed in range(40)]
    empty = [out for out in outs if not len(out.kept)]
    assert empty
    assert all(out.boxes.shape == (0, 4) and out.masks.shape == (0, 20, 20) for out in empty)


def test_padding_has_the_mean_colour_and_no_mask():
    image, masks = scene()
    out = move(train_transform(crop=(200, 240), flip=0.0), image, BOXES, masks, 5)
    padded = (out.image == MEAN_COLOR).all(-1)
    assert padded.sum() == 200 * 240 - 120 * 160
    assert not out.masks[:, padded].any()


def test_hundreds_of_masks_pass():
    image, masks = scene()
    out = move(train_transform(scale=(0.5, 0.5), flip=1.0), image, BOXES.repeat(250, axis=0), masks.repeat(250, axis=0))
    assert out.masks.shape == (750, 60, 80)
    np.testing.assert_array_equal(out.masks[0], out.masks[249])
    assert (out.masks[250] != out.masks[249]).any()


def test_the_seed_alone_decides():
    image, masks = scene()
    options = {"scale": (0.5, 2.0), "crop": (90, 90), "color_jitter": 0.5}
    one, other = train_transform(**options), train_transform(**options)
    move(other, image, BOXES, masks, 99)  # what was drawn before must not matter
    for seed in (0, 1, 2**32 - 1):
        for first, second in zip(
            move(one, image, BOXES, masks, seed), move(other, image, BOXES, masks, seed), strict=True
        ):
            np.testing.assert_array_equal(first, second)
    # Boxes or masks given besides draw nothing of their own.
    np.testing.assert_array_equal(move(one, image, BOXES, None, 4).image, move(one, image, BOXES[:0], None, 4).image)
    assert not np.array_equal(move(one, image, BOXES, None, 0).image, move(one, image, BOXES, None, 1).image)


@pytest.mark.filterwarnings("error")
def test_no_step_that_moves_boxes_is_no_reason_to_warn():
    image, _ = scene()
    move(train_transform(flip=0.0, color_jitter=0.5), image, BOXES)
    move(eval_transform(), image, BOXES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": (0, 10)}, "crop must be"),
        ({"resize": (8, -1)}, "resize must be"),
        ({"scale": (2.0, 0.5)}, "scale must be"),
        ({"flip": 1.5}, "flip must lie in 0 to 1, got 1.5"),
        ({"color_jitter": -0.1}, "color_jitter must lie"),
    ],
)
def test_values_out_of_range(options, message):
    with pytest.raises(SegkdError, match=message):
        train_transform(**options)
