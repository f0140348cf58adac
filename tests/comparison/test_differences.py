import math

import numpy as np
import pytest
from scipy import stats

from segkd.comparison.differences import ALPHA, Difference, Scatter, mean_std, paired_differences, pooled_scatter


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


class TestPooled:
    def test_is_the_residual_of_a_two_way_layout(self):
        """Worked by hand: method means 2 and 5, seed means 2, 3.5, 5, the mean of all 3.5; residuals -0.5, 0, 0.5."""
        found = pooled_scatter([{0: 0.0, 1: 2.0, 2: 4.0}, {0: 4.0, 1: 5.0, 2: 6.0}])
        assert (found.std, found.degrees) == (pytest.approx((4 * 0.25 / 2) ** 0.5), 2)

    def test_of_two_methods_it_is_the_paired_test(self):
        random = np.random.default_rng(0)
        one, other = random.normal(0.6, 0.02, 6).tolist(), random.normal(0.58, 0.02, 6).tolist()
        scatter = pooled_scatter([dict(enumerate(one)), dict(enumerate(other))])
        pooled = paired_differences({"one": list(zip(one, other, strict=True))}, scatter)["one"]
        own = alone(one, other)
        assert (pooled.low, pooled.high, pooled.p) == pytest.approx((own.low, own.high, own.p), abs=1e-12)

    def test_what_a_method_and_what_a_seed_contribute_is_no_scatter(self):
        random = np.random.default_rng(1)
        rest = random.normal(0, 1, (5, 4))
        found = [
            pooled_scatter([dict(enumerate(row)) for row in values])
            for values in (rest, rest + random.normal(0, 9, (5, 1)) + random.normal(0, 9, (1, 4)))
        ]
        assert found[0].degrees == 12
        assert found[1] == Scatter(pytest.approx(found[0].std), 12)

    def test_seeds_may_be_missing(self):
        """Methods with one seed, and runs that came to nothing, add nothing to what is known of the scatter."""
        values = [{0: 1.0, 1: 2.5}, {0: 2.0, 1: 2.5, 2: 3.0}]
        known = pooled_scatter(values)
        assert known.degrees == 1
        assert pooled_scatter([*values, {2: 9.0}, {}, {0: math.nan}]) == Scatter(pytest.approx(known.std), 1)

    @pytest.mark.parametrize("values", [[{0: 1.0}, {0: 2.0}], [{0: 1.0}, {1: 2.0}], [{0: 1.0, 1: 2.0}], [], [{}]])
    def test_without_repeats_there_is_none(self, values: list[dict[int, float]]):
        assert pooled_scatter(values) is None

    def test_a_single_seed_is_tested_by_what_the_others_scatter(self):
        found = paired_differences({"single": [(3.0, 1.0)], "none": [], "nan": [(math.nan, 1.0)]}, Scatter(0.5, 10))
        half = float(stats.t.ppf(0.975, 10)) * 0.5 * 2**0.5
        assert (found["single"].low, found["single"].high) == pytest.approx((2 - half, 2 + half))
        assert found["none"].p is None
        assert found["nan"].p is None

    def test_is_wrong_as_rarely_as_it_says_and_finds_more_with_few_seeds(self):
        random = np.random.default_rng(4)
        wrong, right, right_alone = 0, 0, 0
        for _ in range(300):
            values = random.normal(0, 1, (12, 3)) + random.normal(0, 2, (1, 3))
            values[1] += 4
            pairs = {str(k): list(zip(row, values[0], strict=True)) for k, row in enumerate(values) if k}
            found = paired_differences(pairs, pooled_scatter([dict(enumerate(row)) for row in values]))
            wrong += any(each.is_clear for name, each in found.items() if name != "1")
            right += found["1"].is_clear
            right_alone += paired_differences(pairs)["1"].is_clear
        assert wrong <= 26  # 5 % and three standard deviations
        assert right > 250
        assert right_alone < 50
