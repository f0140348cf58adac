from pathlib import Path

import pytest

from segkd.data.check import DatasetReport, SplitReport, choose, sizes_text
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
