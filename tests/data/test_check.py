from pathlib import Path

import numpy as np
import pytest

from segkd.data.check import DatasetReport, SplitReport, choose, letterbox, sizes_text
from segkd.data.samples import read_all
from segkd.errors import SegkdError


def test_a_report_lists_its_splits_and_then_every_problem():
    parts = [
        SplitReport("train", 3, "three images", problems=["a is broken", "b is gone"]),
        SplitReport("val", 3, "three images", {(3, 4): 3}),
        SplitReport("test", absent=True),
    ]
    report = DatasetReport("animals", Path("here"), parts)
    assert report.problems == ["a is broken", "b is gone"]
    assert str(report).splitlines() == [
        "animals in here",
        "  train: three images; width x height unknown",
        "  val: three images; width x height 4x3 (3)",
        "  test: not there (optional)",
        "  2 problem(s)",
        "    a is broken",
        "    b is gone",
    ]


def test_sizes_are_told_the_commonest_first():
    assert sizes_text({}) == "width x height unknown"
    assert sizes_text({(3, 4): 1, (5, 6): 7}) == "width x height 6x5 (7), 4x3 (1)"
    assert sizes_text({(n, n): 9 - n for n in range(1, 7)}).endswith("4x4 (5) and 2 other sizes")


def test_items_are_read_in_order():
    assert list(read_all(lambda number: number**2, range(50))) == [number**2 for number in range(50)]


def test_samples_are_drawn_without_repetition():
    assert sorted(choose(20, 20, seed=1)) == list(range(20))
    assert choose(20, 5, seed=1) == choose(20, 5, seed=1) != choose(20, 5, seed=2)
    assert len(choose(3, 5, seed=1)) == 3
    with pytest.raises(SegkdError, match="count=0"):
        choose(3, 0, seed=1)


@pytest.mark.parametrize(("size", "expected"), [((10, 40), (30, 40)), ((30, 10), (30, 40)), ((60, 80), (60, 80))])
def test_a_letterbox_keeps_every_pixel_and_takes_on_the_aspect(size, expected):
    picture = np.full((*size, 3), 7, np.uint8)
    padded, mask = letterbox(picture, picture[..., 0], (480, 640, 3), nothing=255)
    assert padded.shape == (*expected, 3)
    rows, columns = np.nonzero((padded == 7).all(-1))
    assert len(rows) == size[0] * size[1]
    assert rows[0] == (expected[0] - size[0]) // 2
    assert columns[0] == (expected[1] - size[1]) // 2
    assert (padded[(padded != 7).any(-1)] == 255).all()
    assert (mask == padded[..., 0]).all()
