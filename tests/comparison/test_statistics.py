import math

import numpy as np
import pytest
from scipy import stats

from segkd.comparison.tables import Difference, mean_std, paired_difference


def test_mean_and_deviation_of_a_sample():
    assert mean_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_std([5.0]) == (5.0, None)


def test_the_interval_of_three_pairs():
    found = paired_difference([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    # t of 2 degrees of freedom at 97.5 %, from a printed table.
    half = 4.302653 / math.sqrt(3)
    assert found.mean == 2.0
    assert found.low == pytest.approx(2 - half, abs=1e-6)
    assert found.high == pytest.approx(2 + half, abs=1e-6)
    assert not found.is_clear


def test_it_is_scipys_interval_of_a_paired_test():
    random = np.random.default_rng(0)
    one, other = random.normal(0.6, 0.02, 7), random.normal(0.58, 0.02, 7)
    theirs = stats.ttest_rel(one, other).confidence_interval(0.95)
    found = paired_difference(one.tolist(), other.tolist())
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_what_both_share_falls_out():
    seeds = [0.50, 0.60, 0.70]
    found = paired_difference([value + 0.01 for value in seeds], seeds)
    assert found.mean == pytest.approx(0.01)
    assert found.is_clear
    assert found.high - found.low < 1e-9


def test_one_pair_has_no_interval():
    found = paired_difference([0.6], [0.5])
    assert found == Difference(pytest.approx(0.1), None, None)
    assert not found.is_clear


@pytest.mark.parametrize(("low", "high", "clear"), [(0.1, 0.2, True), (-0.2, -0.1, True), (-0.1, 0.1, False)])
def test_an_interval_is_clear_on_one_side_of_zero(low: float, high: float, clear: bool):
    assert Difference((low + high) / 2, low, high).is_clear is clear
