import numpy as np
import pytest
import torch

from segkd.common.pictures import weight_map
from segkd.errors import SegkdError
from segkd.segmentation.pictures import (
    ERROR_COLORS,
    IGNORED_COLOR,
    colorize,
    error_map,
    heat_map,
    overlay,
)

COLORS = [(10, 20, 30), (200, 0, 0)]


def is_picture(picture):
    return picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3


def test_colorize_reads_arrays_and_tensors():
    mask = [[0, 1, 255], [7, -1, 0]]
    expected = [[COLORS[0], COLORS[1], IGNORED_COLOR], [IGNORED_COLOR, IGNORED_COLOR, COLORS[0]]]
    for kind in (np.array(mask), torch.tensor(mask)):
        painted = colorize(kind, COLORS)
        assert is_picture(painted)
        np.testing.assert_array_equal(painted, expected)


def test_an_ignored_class_is_not_painted():
    assert tuple(colorize([[1]], COLORS, ignore_index=1)[0, 0]) == IGNORED_COLOR


def test_overlay_blends_where_there_is_a_class():
    image = np.full((1, 2, 3), 100, np.uint8)
    blended = overlay(image, [[1, 255]], COLORS, alpha=0.25)
    np.testing.assert_array_equal(blended, [[[125, 75, 75], [100, 100, 100]]])
    with pytest.raises(SegkdError, match="overlay"):
        overlay(image, [[1]], COLORS)


def test_error_map_tells_who_errs():
    target, student, teacher = np.array([[0, 0, 0, 0, 255]]), np.array([[0, 1, 0, 1, 1]]), np.array([[0, 0, 1, 1, 0]])
    names = ["right", "student wrong", "teacher wrong", "both wrong", "ignored"]
    np.testing.assert_array_equal(error_map(student, target, 255, teacher)[0], [ERROR_COLORS[name] for name in names])
    alone = [ERROR_COLORS[name] for name in ("right", "student wrong", "right", "student wrong", "ignored")]
    np.testing.assert_array_equal(error_map(student, target)[0], alone)
    with pytest.raises(SegkdError, match="error_map"):
        error_map(student, target[:, :2])


@pytest.mark.parametrize("count", [1, 2, 11, 21, 40])
def test_heat_map_holds_every_cell_and_name(count):
    matrix = np.random.default_rng(0).random((count, count))
    picture = heat_map(matrix, [f"class {i}" for i in range(count)], "teacher")
    assert is_picture(picture)
    cell = 56 if count <= 21 else 14
    assert min(picture.shape[:2]) > cell * count
    # The largest value is painted in the map's last colour, as the top of the colour bar is.
    top = weight_map(np.ones((1, 1)))[0, 0]
    assert (picture == top).all(-1).sum() >= 20


def test_heat_map_draws_in_numbers_what_a_person_reads():
    labels = ["a", "b"]
    plain, other = heat_map(np.array([[0, 1.0], [2.0, 3]]), labels), heat_map(np.array([[0, 1.1], [2.0, 3]]), labels)
    assert plain.shape == other.shape
    assert (plain != other).any()
    assert is_picture(heat_map(np.full((2, 2), np.nan), labels))
    assert is_picture(heat_map(np.zeros((2, 2)), labels))
    assert (heat_map(np.zeros((2, 2)), labels, limits=(0, 5)) != heat_map(np.zeros((2, 2)), labels)).any()


def test_heat_map_names_a_wrong_shape():
    with pytest.raises(SegkdError, match=r"\(2, 2\) matrix for 2 labels, got \(2, 3\)"):
        heat_map(np.zeros((2, 3)), ["a", "b"])
