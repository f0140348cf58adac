import dataclasses
from pathlib import Path

import pytest
from rich.console import Console

from segkd.comparison.circumstances import config_table, environment_table, remarks_on
from segkd.comparison.records import Method, find_baseline, group, read_records


@pytest.fixture
def methods(compared: Path) -> list[Method]:
    return group(read_records([compared / "out"], Console(quiet=True)))


@pytest.fixture
def baseline(methods: list[Method]) -> Method:
    return find_baseline(methods)


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
        chosen = "Differences are to distilled, which is distilled itself."
        assert remarks_on(methods, methods[0]) == [chosen]

    def test_other_steps(self, methods: list[Method], baseline: Method):
        record = methods[0].records[0]
        trainer = record.config.trainer.model_copy(update={"max_steps": 9})
        methods[0].records[0] = dataclasses.replace(
            record, config=record.config.model_copy(update={"trainer": trainer})
        )
        assert any("number of steps" in remark for remark in remarks_on(methods, baseline))
        assert remarks_on(methods, baseline, {"budget": "12 minutes"}) == []  # then it is as it should be
