import numpy as np
import pytest

from segkd.data.shapes import NoArea, draw_mask, read_shape, unpack


def pack(runs):
    """COCO's packing, written down here once more, the other way round."""
    text = ""
    for index, run in enumerate(runs):
        value = run - runs[index - 2] if index > 2 else run
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            text += chr((group | (32 if more else 0)) + 48)
    return text


def test_a_rectangle_covers_its_pixels_exactly():
    shape = read_shape([[10, 20, 30, 20, 30, 45, 10, 45]], (60, 50))
    expected = np.zeros((60, 50), np.uint8)
    expected[20:45, 10:30] = 1
    np.testing.assert_array_equal(draw_mask(shape, (60, 50)), expected)


def test_a_pixel_belongs_to_the_polygon_that_holds_its_centre():
    triangle = read_shape([[0, 0, 8, 0, 0, 8]], (8, 8))
    y, x = np.mgrid[:8, :8] + 0.5
    inside = x + y < 8
    drawn = draw_mask(triangle, (8, 8)).astype(bool)
    on_the_edge = x + y == 8
    np.testing.assert_array_equal(drawn[~on_the_edge], inside[~on_the_edge])


def test_areas_are_kept_on_average():
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(200):
        angle = np.sort(rng.random(20)) * 2 * np.pi
        radius = rng.uniform(10, 30, 20)
        x, y = 40 + radius * np.cos(angle), 40 + radius * np.sin(angle)
        area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
        differences.append(draw_mask([np.stack([x, y], axis=1)], (80, 80)).sum() - area)
    # With the outline, as other fills have it, this would be half the perimeter: 60 and more.
    assert abs(np.mean(differences)) < 1.5


def test_parts_are_joined_and_holes_within_one_polygon_kept():
    two = draw_mask(read_shape([[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 8, 2, 8, 8, 2, 8]], (8, 8)), (8, 8))
    assert two.sum() == 16 + 36 - 4
    ring = [0, 0, 8, 0, 8, 8, 0, 8, 0, 0, 2, 2, 2, 6, 6, 6, 6, 2, 2, 2]
    assert draw_mask(read_shape([ring], (8, 8)), (8, 8)).sum() == 64 - 16


@pytest.mark.parametrize("polygon", [[-5, -5, 4, -5, 4, 4, -5, 4], [-9, 0, -2, 0, -2, 8], [0, 90, 8, 90, 8, 99]])
def test_what_lies_outside_the_image_is_cut_off(polygon):
    mask = draw_mask(read_shape([polygon], (8, 8)), (8, 8))
    assert mask.shape == (8, 8)
    assert mask.sum() == (16 if polygon[0] == -5 else 0)


def test_runs_go_down_the_columns_and_start_outside():
    shape = read_shape({"size": [3, 2], "counts": [1, 3, 2]}, (3, 2))
    np.testing.assert_array_equal(draw_mask(shape, (3, 2)), [[0, 1], [1, 0], [1, 0]])


def test_packed_runs_are_unpacked():
    rng = np.random.default_rng(0)
    for _ in range(50):
        runs = rng.integers(0, 5000, rng.integers(1, 30)).tolist()
        assert unpack(pack(runs)) == runs
    assert unpack("") == []
    # Of the format's own tools: a square of 4 in the middle of 8x8 pixels.
    shape = read_shape({"size": [8, 8], "counts": "b04400000>"}, (8, 8))
    expected = np.zeros((8, 8), np.uint8)
    expected[2:6, 2:6] = 1
    np.testing.assert_array_equal(draw_mask(shape, (8, 8)), expected)


@pytest.mark.parametrize(
    "segmentation",
    [[], [[]], [[1, 2, 3, 4]], [[1, 2, 3]], [[0, 0, 1, 1, 2, 2, 0, 0]], [[1, 1] * 3], {"size": [3, 2], "counts": [6]}],
    ids=str,
)
def test_what_covers_nothing_is_told_apart(segmentation):
    with pytest.raises(NoArea):
        read_shape(segmentation, (3, 2))


def test_of_several_polygons_those_without_area_are_left_out():
    square = [0, 0, 2, 0, 2, 3, 0, 3]
    assert len(read_shape([[1, 2, 3, 4], square, [5, 5] * 4], (3, 2))) == 1
    # Two triangles whose signed areas cancel out do cover pixels.
    assert len(read_shape([[0, 0, 8, 8, 8, 0, 0, 8]], (8, 8))) == 1


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "no segmentation"),
        ({"counts": [1]}, "no segmentation"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three x, y"),
        ([[1, 2, 3, 4, 5, float("nan")]], "at least three x, y"),
        ([["a", 2, 3, 4, 5, 6]], "could not convert"),
        ({"size": [4, 4], "counts": [16]}, "do not fill the image of 2x3"),
        ({"size": [3, 2], "counts": [1, 2]}, "do not fill the image of 2x3"),
        ({"size": [3, 2], "counts": [7, -1]}, "do not fill the image of 2x3"),
        ({"size": [3, 2], "counts": "\x10"}, "the character"),
        ({"size": [3, 2], "counts": "P"}, "end within a number"),
    ],
)
def test_what_is_no_mask_is_told(segmentation, message):
    with pytest.raises(ValueError, match=message):
        read_shape(segmentation, (3, 2))
