import math

import numpy as np
import pytest
from scipy import stats

from segkd.comparison.differences import ALPHA, Difference, mean_std, paired_differences


def alone(values: list[float], others: list[float]) -> Difference:
    return paired_differences({"one": list(zip(values, others, strict=True))})["one"]


def test_mean_and_deviation_of_a_sample():
    assert mean_std([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert mean_std([5.0]) == (5.0, None)


def test_the_interval_of_three_pairs():
    found = alone([3.0, 5.0, 7.0], [2.0, 3.0, 4.0])
    # t of 2 degrees of freedom at 97.5 %, from a printed table.
    half = 4.302653 / math.sqrt(3)
    assert found.mean == 2.0
    assert found.low == pytest.approx(2 - half, abs=1e-6)
    assert found.high == pytest.approx(2 + half, abs=1e-6)
    assert not found.is_clear


def test_one_method_has_scipys_paired_test():
    random = np.random.default_rng(0)
    one, other = random.normal(0.6, 0.02, 7), random.normal(0.58, 0.02, 7)
    theirs = stats.ttest_rel(one, other)
    found = alone(one.tolist(), other.tolist())
    interval = theirs.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert found.p == pytest.approx(theirs.pvalue, abs=1e-12)


def test_what_both_share_falls_out():
    seeds = [0.50, 0.60, 0.70]
    found = alone([value + 0.01 for value in seeds], seeds)
    assert found.mean == pytest.approx(0.01)
    assert found.is_clear
    assert found.high - found.low < 1e-9


def test_one_pair_has_no_interval_and_none_or_an_unknown_value_no_mean():
    assert alone([0.6], [0.5]) == Difference(pytest.approx(0.1))
    assert not alone([0.6], [0.5]).is_clear
    for pairs in ([], [(math.nan, 0.5), (0.5, 0.5)]):
        found = paired_differences({"one": pairs})["one"]
        assert math.isnan(found.mean)
        assert found.p is None


def test_the_same_difference_each_time_is_certain_and_none_at_all_is_none():
    assert alone([2.0, 2.0], [1.0, 1.0]).p == 0
    assert alone([1.0, 1.0], [1.0, 1.0]) == Difference(0, 0, 0, 1)


class TestHolm:
    @pytest.fixture
    def pairs(self) -> dict[str, list[tuple[float, float]]]:
        gains = {"none": 0.0, "small": 0.75, "large": 3.0, "middle": 1.6}
        found = {name: [(gain + noise, 0.0) for noise in (-0.7, -0.3, 0, 0.3, 0.7)] for name, gain in gains.items()}
        return {**found, "one seed": [(5.0, 0.0)]}

    def test_is_the_procedure_of_the_paper(self, pairs: dict[str, list[tuple[float, float]]]):
        found = paired_differences(pairs)
        tested = [name for name in pairs if name != "one seed"]
        raw = {name: stats.ttest_1samp([a for a, _ in pairs[name]], 0).pvalue for name in tested}
        largest = 0.0
        for rank, name in enumerate(sorted(tested, key=raw.get)):
            largest = max(largest, (4 - rank) * raw[name])
            assert found[name].p == pytest.approx(min(largest, 1))
        assert found["one seed"].p is None
        assert {name for name in tested if found[name].is_clear} == {"large", "middle"}
        assert raw["small"] < ALPHA  # alone it would have been clear

    def test_an_interval_excludes_zero_exactly_where_it_rejects(self):
        random = np.random.default_rng(2)
        for _ in range(200):
            gains = random.normal(0, 1.5, 6)
            pairs = {str(k): [(gain + noise, 0.0) for noise in random.normal(0, 1, 3)] for k, gain in enumerate(gains)}
            for name, each in paired_differences(pairs).items():
                assert each.is_clear is (each.low > 0 or each.high < 0)
                assert (
                    each.high - each.low >= (single := paired_differences({name: pairs[name]})[name]).high - single.low
                )

    def test_among_methods_without_a_gain_one_is_rarely_clear(self):
        random = np.random.default_rng(3)
        wrong = 0
        for _ in range(300):
            base = random.normal(0, 1, 5)
            pairs = {str(k): list(zip(random.normal(0, 1, 5), base, strict=True)) for k in range(8)}
            wrong += any(each.is_clear for each in paired_differences(pairs).values())
        assert wrong <= 26  # 5 % and three standard deviations; without the correction it is about 55
