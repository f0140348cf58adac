import numpy as np
import pytest

from segkd.common.pictures import (
    INK,
    PAPER,
    comparison_grid,
    font,
    ink_on,
    short_number,
    text_width,
    weight_map,
)
from segkd.errors import SegkdError


def is_picture(picture):
    return picture.dtype == np.uint8 and picture.ndim == 3 and picture.shape[2] == 3


def test_weights_go_from_dark_to_bright():
    painted = weight_map(np.array([[0.0, 0.5, 1.0, 2.0, np.nan]]))
    brightness = painted[0].astype(int).sum(-1)
    assert is_picture(painted)
    assert brightness[0] < brightness[1] < brightness[2] == brightness[3]
    assert len(set(painted[0, 4].tolist())) == 1  # grey: not a colour of the map
    assert painted[0, 2, 0] > 200 > painted[0, 2, 2]  # yellow: RGB, not OpenCV's BGR


def test_the_grid_holds_every_picture_in_its_place():
    red, blue = np.full((30, 40, 3), (255, 0, 0), np.uint8), np.full((60, 80, 3), (0, 0, 255), np.uint8)
    grid = comparison_grid([[red, None], [red, blue]], ["input", "label"], legend=[("car", (0, 128, 0))], tile=200)
    assert is_picture(grid)
    reds, blues = (grid == (255, 0, 0)).all(-1), (grid == (0, 0, 255)).all(-1)
    assert reds.sum() == 2 * 200 * 150
    assert blues.sum() == 200 * 150
    rows, columns = np.nonzero(blues)
    assert rows.min() > np.nonzero(reds)[0].min() + 149
    assert columns.min() > np.nonzero(reds)[1].max()
    assert (grid == (0, 128, 0)).all(-1).sum() > 400  # the legend's swatch


def test_the_legend_wraps_and_long_headers_fit():
    tiny = np.zeros((10, 10, 3), np.uint8)
    short = comparison_grid([[tiny]], ["x"], legend=[("car", (1, 2, 3))])
    long = comparison_grid(
        [[tiny]], ["a heading far too long for one column of pictures"], [("a class", (1, 2, 3))] * 30
    )
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0] + 200


@pytest.mark.parametrize("rows", [[], [[None]], [[None, None, None]]])
def test_a_row_of_another_length_is_named(rows):
    with pytest.raises(SegkdError, match="rows of 2 pictures"):
        comparison_grid(rows, ["a", "b"])


def test_ink_is_legible_on_its_ground():
    assert ink_on((0, 0, 0)) == ink_on((120, 0, 0)) == PAPER
    assert ink_on((255, 255, 255)) == ink_on((255, 220, 0)) == INK


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0.00"),
        (0.5, "0.50"),
        (-12.34, "-12.3"),
        (123.4, "123"),
        (0.0012, "1e-3"),
        (12345.0, "1e4"),
        (np.nan, "nan"),
    ],
)
def test_numbers_are_short(value, text):
    assert short_number(value) == text


def test_text_is_as_wide_as_it_is_drawn():
    assert 0 == text_width("", font(20)) < text_width("car", font(20)) < text_width("car", font(30))
