import dataclasses
import json
import statistics
from pathlib import Path

import pytest
from rich.console import Console
from scipy.stats import ttest_rel

from segkd.comparison.differences import Difference
from segkd.comparison.records import Method, find_baseline, group, read_records
from segkd.comparison.tables import (
    Table,
    class_table,
    cost_table,
    course_table,
    interval,
    result_table,
    seconds_per_step,
    seed_table,
    spread,
)
from segkd.comparison.versus import ways_to_compare
from segkd.training.measure import Measure


@pytest.fixture
def methods(compared: Path) -> list[Method]:
    return group(read_records([compared / "out"], Console(quiet=True)))


def reached(methods: list[Method], baseline: Method) -> Table:
    return result_table(methods, baseline, ways_to_compare(methods, baseline))


@pytest.fixture
def baseline(methods: list[Method]) -> Method:
    return find_baseline(methods)


def results(compared: Path, name: str) -> list[dict]:
    return [json.loads((compared / "out" / f"{name}_seed{s}" / "result.json").read_text()) for s in (0, 1)]


def with_curves(method: Method, *curves: list[tuple[int, float, float]]) -> Method:
    records = {
        seed: dataclasses.replace(record, curve=curve)
        for (seed, record), curve in zip(method.records.items(), curves, strict=True)
    }
    return Method(method.name, records)


def test_what_was_reached(compared: Path, methods: list[Method], baseline: Method):
    table = reached(methods, baseline)
    assert table.header == [
        "method", "seeds", "mIoU", "mIoU to tiny", "pixel accuracy", "class accuracy", "mIoU, last step",
    ]  # fmt: skip
    rows = {row[0]: row for row in table.rows}
    assert list(rows) == ["teacher", "distilled", "kd", "tiny"]
    kd, tiny = ([result["student"]["miou"] for result in results(compared, name)] for name in ("kd", "tiny"))
    assert rows["kd"][1] == "2"
    assert rows["kd"][2] == f"{100 * statistics.fmean(kd):.2f} ± {100 * statistics.stdev(kd):.2f}"
    last = [result["last"]["miou"] for result in results(compared, "kd")]
    assert rows["kd"][6] == f"{100 * statistics.fmean(last):.2f} ± {100 * statistics.stdev(last):.2f}"
    differences = [100 * (a - b) for a, b in zip(kd, tiny, strict=True)]
    # t of one degree of freedom at 98.75 %: nothing is rejected, so both methods have the level of the first of two.
    mean, half = statistics.fmean(differences), 25.4516997 * statistics.stdev(differences) / 2**0.5
    assert rows["kd"][3] == f"{mean:+.2f} [{mean - half:+.2f}, {mean + half:+.2f}]"
    assert rows["tiny"][3] == ""
    assert rows["teacher"][2] == f"{100 * results(compared, 'kd')[0]['teacher']['miou']:.2f}"


def test_only_a_clear_difference_stands_out(methods: list[Method], baseline: Method):
    def shifted(method: Method, gains: list[float]) -> Method:
        records = {}
        for (seed, record), gain in zip(baseline.records.items(), gains, strict=True):
            student = {**record.result["student"], "miou": record.value("miou") + gain}
            records[seed] = dataclasses.replace(record, result={**record.result, "student": student})
        return Method(method.name, records)

    clear, unclear = shifted(methods[0], [0.02, 0.0201]), shifted(methods[1], [0.02, -0.01])
    table = reached([baseline, clear, unclear], baseline)
    assert table.strong == {(1, 3)}


def test_each_run_and_how_sure_its_methods_difference_is(compared: Path, methods: list[Method], baseline: Method):
    table = seed_table(methods, baseline, ways_to_compare(methods, baseline))
    assert table.header == ["method", "seed 0", "seed 1", "p"]
    assert [row[0] for row in table.rows] == ["distilled", "kd", "tiny"]
    for name, *values, p in table.rows:
        assert values == [f"{100 * result['student']['miou']:.2f}" for result in results(compared, name)]
        assert (p == "") is (name == "tiny")
    raw = {}
    for name in ("distilled", "kd"):
        pairs = [[result["student"]["miou"] for result in results(compared, each)] for each in (name, "tiny")]
        raw[name] = float(ttest_rel(*pairs).pvalue)
    first, second = sorted(raw, key=lambda name: raw[name])
    holm = {first: min(2 * raw[first], 1), second: min(max(2 * raw[first], raw[second]), 1)}
    assert {row[0]: row[3] for row in table.rows[:2]} == {name: f"{p:.3f}" for name, p in holm.items()}


def test_the_way_there(methods: list[Method], baseline: Method):
    kd = with_curves(methods[1], [(2, 1.0, 0.1), (4, 2.0, 0.3)], [(2, 1.0, 0.2), (4, 2.0, 0.5)])
    tiny = with_curves(baseline, [(2, 1.0, 0.2), (4, 2.0, 0.4)], [(2, 1.0, 0.4), (4, 2.0, float("nan"))])
    table = course_table([tiny, kd], tiny)
    assert table.header == ["method", "2", "4"]
    assert table.rows == [["tiny", "30.00", "-"], ["kd", "15.00", "40.00"]]


def test_of_many_validations_a_few_and_the_last_are_listed(methods: list[Method], baseline: Method):
    long = with_curves(baseline, *[[(step, 1.0, step / 1000) for step in range(10, 1010, 10)]] * 2)
    short = with_curves(methods[1], *[[(10, 1.0, 0.5), (1000, 1.0, 0.7), (1005, 1.0, 0.8)]] * 2)
    table = course_table([long, short], long)
    assert len(table.header) == 9
    assert (table.header[1], table.header[-1]) == ("10", "1000")
    assert table.rows[1] == ["kd", "50.00", *[""] * 6, "70.00"]


def test_each_class(compared: Path, methods: list[Method], baseline: Method):
    table = class_table(methods, baseline)
    assert table.header == ["class", "teacher", "distilled", "kd", "tiny"]
    assert [row[0] for row in table.rows] == baseline.first.result["classes"]
    for index, row in enumerate(table.rows):
        means = [
            statistics.fmean(result["student"]["iou"][index] for result in results(compared, name))
            for name in ("distilled", "kd", "tiny")
        ]
        assert row[2:] == [f"{100 * mean:.2f}" for mean in means]
        best = {(index, 2 + k) for k, mean in enumerate(means) if mean == max(means)}
        assert {place for place in table.strong if place[0] == index} == (best if len(best) == 1 else set())


def test_the_cost_of_a_step_is_the_median_part(methods: list[Method], baseline: Method):
    # Seconds of the parts between validations: 1, 3, 2 a step, and 2, 2, 40 while something else was running.
    method = with_curves(baseline, [(2, 2, 0), (4, 8, 0), (6, 12, 0)], [(2, 4, 0), (4, 8, 0), (6, 88, 0)])
    assert seconds_per_step(method) == 2
    dear = with_curves(methods[0], [(2, 6, 0), (4, 12, 0)], [(2, 6, 0), (4, 12, 0)])
    table = cost_table([method, dear], method)
    assert table.header[3] == "times tiny"
    assert [row[2:5] for row in table.rows] == [["2.000", "1.00", "0.83"], ["3.000", "1.50", "0.20"]]


def test_memory_is_the_most_of_all_seeds(compared: Path, baseline: Method):
    peak = max(result["peak_memory"] for result in results(compared, "tiny")) / 2**20
    assert cost_table([baseline], baseline).rows[0][5] == f"{peak:.0f}"


def test_differences_are_taken_over_the_seeds_that_both_have(methods: list[Method], baseline: Method):
    single = Method("kd", {1: methods[1].records[1]})
    row = reached([baseline, single], baseline).rows[-1]
    gain = 100 * (single.records[1].value("miou") - baseline.records[1].value("miou"))
    assert row[3] == f"{gain:+.2f}"
    nothing = Method("kd", {7: methods[1].records[1]})
    assert reached([baseline, nothing], baseline).rows[-1][3] == "-"


@pytest.mark.parametrize(
    ("values", "text"), [([0.5], "50.00"), ([0.5, 0.52], "51.00 ± 1.41"), ([None], "-"), ([0.5, None], "-")]
)
def test_spread(values: list[float | None], text: str):
    assert spread(values, Measure("miou", "mIoU")) == text


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference(0.01, -0.02, 0.04), "+1.00 [-2.00, +4.00]"),
        (Difference(-0.01), "-1.00"),
        (Difference(float("nan")), "-"),
    ],
)
def test_interval(difference: Difference, text: str):
    assert interval(difference, Measure("miou", "mIoU")) == text


def test_detectors_have_average_precision(detectors: Path):
    methods = group(read_records([detectors / "out"], Console(quiet=True)))
    baseline = find_baseline(methods)
    assert baseline.name == "tiny"
    table = reached(methods, baseline)
    assert table.header == ["method", "seeds", "AP", "AP to tiny", "AP50", "AP75", "AP, last step"]
    assert class_table(methods, baseline).title == "AP of each class"
