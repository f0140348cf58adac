import numpy as np
import pytest
import torch

from segkd.common.pictures import comparison_grid, weight_map
from segkd.detection.pictures import box_row, draw_boxes, level_maps
from segkd.errors import SegkdError

NAMES, COLORS = ["cat", "dog"], [(200, 0, 0), (0, 0, 250)]
GREY = np.full((100, 200, 3), 128, np.uint8)


def painted(picture, color):
    return (picture == color).all(-1)


def test_a_box_is_outlined_two_pixels_wide_within_its_bounds():
    picture = draw_boxes(GREY, [[50, 40, 150, 90]], [2], NAMES, COLORS, tile=400)
    assert picture.shape == (200, 400, 3)
    assert picture.dtype == np.uint8
    outline = painted(picture, COLORS[1])
    below = outline[80:180]  # the box itself; its name stands above
    rows, columns = np.nonzero(below)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (0, 99, 100, 299)
    assert below.sum() == 200 * 100 - 196 * 96
    assert painted(picture, (128, 128, 128))[84:176, 104:296].all()
    assert not outline[180:].any()


def test_the_name_stands_on_its_colour_above_the_box_or_inside_at_the_top():
    above = draw_boxes(GREY, [[50, 40, 150, 90]], [1], NAMES, COLORS, tile=200)
    assert painted(above, COLORS[0])[22:40, 50:70].sum() > 200
    inside = draw_boxes(GREY, [[50, 2, 150, 90]], [1], NAMES, COLORS, tile=200)
    assert not painted(inside, COLORS[0])[:2].any()
    assert painted(inside, COLORS[0])[2:20, 50:70].sum() > 200
    at_the_edge = draw_boxes(GREY, [[195, 95, 200, 100]], [1], NAMES, COLORS, tile=200)
    assert painted(at_the_edge, COLORS[0])[76:94, 170:199].sum() > 200  # moved to the left, so that it can be read
    assert (draw_boxes(GREY, [[50, 40, 150, 90]], [1], ["cow", "dog"], COLORS, tile=200) != above).any()


def test_scores_are_written_and_the_highest_drawn_last():
    boxes = [[50, 40, 150, 90], [50, 40, 150, 90]]
    plain = draw_boxes(GREY, boxes[:1], [1], NAMES, COLORS, tile=200)
    scored = draw_boxes(GREY, boxes[:1], [1], NAMES, COLORS, [0.9], tile=200)
    assert painted(scored, COLORS[0])[:40].sum() > painted(plain, COLORS[0])[:40].sum()
    for scores, winner in (([0.9, 0.2], 0), ([0.2, 0.9], 1)):
        outline = draw_boxes(GREY, boxes, [1, 2], NAMES, COLORS, scores, tile=200)[60:]
        assert painted(outline, COLORS[winner]).any()
        assert not painted(outline, COLORS[1 - winner]).any()


@pytest.mark.parametrize("box", [[-50, -20, 300, 150], [10, 10, 10, 10], [198, 98, 199, 99], [0, 0, 200, 100]])
def test_any_box_can_be_drawn(box):
    picture = draw_boxes(GREY, [box], [1], NAMES, COLORS, tile=100)
    assert picture.shape == (50, 100, 3)
    assert painted(picture, COLORS[0]).any()


def test_an_image_without_boxes_is_only_resized():
    nothing = np.zeros((0, 4))
    np.testing.assert_array_equal(draw_boxes(GREY, nothing, [], NAMES, COLORS, tile=200), GREY)
    assert draw_boxes(np.zeros((3, 600, 3), np.uint8), nothing, [], NAMES, COLORS, tile=100).shape == (1, 100, 3)


def test_a_row_shows_every_side_and_leaves_out_what_is_unlikely():
    image = torch.full((100, 200, 3), 128, dtype=torch.uint8)
    true = {"boxes": torch.tensor([[50.0, 40, 150, 90]]), "labels": torch.tensor([1])}
    both = {
        "boxes": torch.tensor([[50.0, 40, 150, 90], [10.0, 40, 30, 90]], requires_grad=True),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.8, 0.29]),
    }
    row = box_row(image, [true, None, both], NAMES, COLORS, tile=200)
    np.testing.assert_array_equal(row[0], GREY)
    np.testing.assert_array_equal(row[1], draw_boxes(GREY, true["boxes"], [1], NAMES, COLORS, tile=200))
    assert row[2] is None
    assert painted(row[3], COLORS[0]).any()
    assert not painted(row[3], COLORS[1]).any()
    all_of_it = box_row(image, [both], NAMES, COLORS, min_score=0.0, tile=200)[1]
    assert painted(all_of_it, COLORS[1]).any()
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}
    np.testing.assert_array_equal(box_row(image, [none], NAMES, COLORS, tile=200)[1], GREY)
    grid = comparison_grid([row], ["image", "true", "teacher", "student"], tile=200)
    np.testing.assert_array_equal(grid[48:148, 8:208], GREY)
    np.testing.assert_array_equal(grid[48:148, 216:416], row[1])


def test_levels_are_drawn_side_by_side_each_from_its_smallest_to_its_largest():
    features = [torch.zeros(4, 8, 10), torch.zeros(4, 4, 5)]
    features[0][:, 2, 3] = torch.tensor([2.0, -2, 4, 0])  # mean of absolute values: 2
    features[1][:, 0, 4] = 0.5
    picture = level_maps(features, [8, 16], tile=100)
    dark, bright = weight_map([[0.0, 1.0]])[0]
    left, right = picture[48:128, 8:108], picture[48:128, 116:216]
    assert painted(left, bright).sum() == 10 * 10
    assert painted(left, bright)[20:30, 30:40].all()
    assert painted(right, bright)[:20, 80:].all()
    assert painted(left, dark).sum() == painted(right, dark).sum() + 300 == 8000 - 100
    assert (level_maps(features, [8, 32], tile=100)[:48] != picture[:48]).any()  # the headings


def test_levels_of_one_value_or_none_that_is_finite_are_drawn():
    flat, broken = torch.ones(3, 1, 1), torch.full((3, 2, 2), torch.nan)
    assert level_maps([flat, broken], [64, 128]).shape[2] == 3


@pytest.mark.parametrize(
    ("shapes", "strides"), [([], []), ([(3, 4, 4)], [8, 16]), ([(1, 3, 4, 4)], [8]), ([(3, 4, 4), (4, 4)], [8, 16])]
)
def test_levels_that_do_not_fit_are_named(shapes, strides):
    with pytest.raises(SegkdError, match=r"level_maps takes maps \(C, H, W\), one for each of the strides \["):
        level_maps([torch.zeros(shape) for shape in shapes], strides)
