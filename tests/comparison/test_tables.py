import dataclasses
import json
import statistics
from pathlib import Path

import pytest
from rich.console import Console

from segkd.comparison.records import Method, find_baseline, group, read_records
from segkd.comparison.tables import (
    Difference,
    class_table,
    config_table,
    cost_table,
    environment_table,
    interval,
    remarks_on,
    result_table,
    seconds_per_step,
    seed_table,
    spread,
)
from segkd.training.measure import Measure


@pytest.fixture
def methods(compared: Path) -> list[Method]:
    return group(read_records([compared / "out"], Console(quiet=True)))


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
    table = result_table(methods, baseline)
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
    mean, half = statistics.fmean(differences), 12.7062047 * statistics.stdev(differences) / 2**0.5
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
    table = result_table([baseline, clear, unclear], baseline)
    assert table.strong == {(1, 3)}


def test_each_run(compared: Path, methods: list[Method], baseline: Method):
    table = seed_table(methods, baseline)
    assert table.header == ["seed", "distilled", "kd", "tiny"]
    for seed, row in enumerate(table.rows):
        expected = [f"{100 * results(compared, name)[seed]['student']['miou']:.2f}" for name in table.header[1:]]
        assert row == [str(seed), *expected]


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


def test_where_the_configs_differ(methods: list[Method]):
    rows = {row[0]: row[1:] for row in config_table(methods).rows}
    assert rows["distill.terms.kd.weight"] == ["1", "1", ""]
    assert rows["distill.schedule.alw.fall"] == ["['kd']", "", ""]
    assert "distill.terms.icsd.student" not in rows  # differs in nothing that is there


def test_paths_say_nothing_of_the_machine(methods: list[Method]):
    assert not [cell for row in config_table(methods).rows for cell in row if cell.startswith("/")]


def with_settings(method: Method, **changes: dict) -> Method:
    config = method.first.config
    blocks = {name: getattr(config, name).model_copy(update=change) for name, change in changes.items()}
    return Method(method.name, {0: dataclasses.replace(method.first, config=config.model_copy(update=blocks))})


def test_values_that_differ_are_written_differently(baseline: Method):
    one = with_settings(baseline, optimizer={"lr": 0.12345678}, student={"checkpoint": "/a/run/student.pth"})
    other = with_settings(baseline, optimizer={"lr": 0.12345679}, student={"checkpoint": "/b/run/student.pth"})
    rows = {row[0]: row[1:] for row in config_table([one, other]).rows}
    assert rows == {
        "student.checkpoint": [".../a/run/student.pth", ".../b/run/student.pth"],
        "optimizer.lr": ["0.12345678", "0.12345679"],
    }


def test_a_method_without_options_is_named(baseline: Method):
    weighted = with_settings(baseline, distill={"pixel_weighting": {"rdd": {}}})
    assert config_table([baseline, weighted]).rows == [["distill.pixel_weighting.rdd", "", "defaults"]]


def test_versions_and_hardware(methods: list[Method]):
    rows = dict(environment_table(methods).rows)
    assert rows["precision"] == "32-true"
    assert rows["torch"] == methods[0].first.result["environment"]["torch"]
    assert rows["gpu"] == "none"


def test_where_runs_were_made_differently(methods: list[Method], baseline: Method):
    record = methods[0].records[1]
    other = {**record.result, "environment": {**record.result["environment"], "cpu": "another"}}
    methods[0].records[1] = dataclasses.replace(record, result=other)
    cpu = dict(environment_table(methods).rows)["cpu"]
    assert "another (distilled_seed1)" in cpu
    assert any("cpu is" in remark and "another" in remark for remark in remarks_on(methods, baseline))


class TestRemarks:
    def test_none_where_all_is_alike(self, methods: list[Method], baseline: Method):
        assert remarks_on(methods, baseline) == []

    def test_one_seed(self, methods: list[Method], baseline: Method):
        single = Method("kd", {0: methods[1].records[0]})
        remarks = remarks_on([baseline, single], baseline)
        assert remarks[0].startswith("One seed only: kd.")
        assert "the same seeds" in remarks[1]

    def test_other_seeds(self, methods: list[Method], baseline: Method):
        first, second = (Method(m.name, {s: m.records[s]}) for s, m in enumerate((baseline, methods[0])))
        assert any("the same seeds" in remark for remark in remarks_on([first, second], first))

    def test_no_plain_run(self, methods: list[Method]):
        assert any("without distillation" in remark for remark in remarks_on(methods[:2], methods[0]))

    def test_other_steps(self, methods: list[Method], baseline: Method):
        record = methods[0].records[0]
        trainer = record.config.trainer.model_copy(update={"max_steps": 9})
        methods[0].records[0] = dataclasses.replace(
            record, config=record.config.model_copy(update={"trainer": trainer})
        )
        assert any("number of steps" in remark for remark in remarks_on(methods, baseline))
        assert remarks_on(methods, baseline, "12 minutes") == []  # then it is as it should be


def test_differences_are_taken_over_the_seeds_that_both_have(methods: list[Method], baseline: Method):
    single = Method("kd", {1: methods[1].records[1]})
    row = result_table([baseline, single], baseline).rows[-1]
    gain = 100 * (single.records[1].value("miou") - baseline.records[1].value("miou"))
    assert row[3] == f"{gain:+.2f}"
    nothing = Method("kd", {7: methods[1].records[1]})
    assert result_table([baseline, nothing], baseline).rows[-1][3] == "-"


@pytest.mark.parametrize(
    ("values", "text"), [([0.5], "50.00"), ([0.5, 0.52], "51.00 ± 1.41"), ([None], "-"), ([0.5, None], "-")]
)
def test_spread(values: list[float | None], text: str):
    assert spread(values, Measure("miou", "mIoU")) == text


@pytest.mark.parametrize(
    ("difference", "text"),
    [
        (Difference(0.01, -0.02, 0.04), "+1.00 [-2.00, +4.00]"),
        (Difference(-0.01, None, None), "-1.00"),
        (Difference(float("nan"), None, None), "-"),
        (None, "-"),
    ],
)
def test_interval(difference: Difference | None, text: str):
    assert interval(difference, Measure("miou", "mIoU")) == text


def test_detectors_have_average_precision(detectors: Path):
    methods = group(read_records([detectors / "out"], Console(quiet=True)))
    baseline = find_baseline(methods)
    assert baseline.name == "tiny"
    table = result_table(methods, baseline)
    assert table.header == ["method", "seeds", "AP", "AP to tiny", "AP50", "AP75", "AP, last step"]
    assert class_table(methods, baseline).title == "AP of each class"
