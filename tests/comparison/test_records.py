import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from segkd.comparison.records import Method, Record, differing_keys, find_baseline, group, read_record, read_records
from segkd.comparison.work import MARKER
from segkd.errors import SegkdError
from segkd.training.run import Run

CONSOLE = Console(quiet=True)


@pytest.fixture
def copied(compared: Path, tmp_path: Path) -> Path:
    """A run of one's own, to spoil."""
    return shutil.copytree(compared / "out" / "tiny_seed0", tmp_path / "tiny_seed0")


@pytest.fixture
def records(compared: Path) -> list[Record]:
    return read_records([compared / "out"], CONSOLE)


def named(record: Record, name: str, seed: int) -> Record:
    return dataclasses.replace(record, config=record.config.model_copy(update={"name": name, "seed": seed}))


class TestReading:
    def test_a_folder_without_its_teacher(self, records: list[Record]):
        assert {record.config.name for record in records} == {
            f"{m}_seed{s}" for m in ("tiny", "distilled", "kd") for s in (0, 1)
        }

    def test_the_curve_is_that_of_metrics_csv(self, compared: Path):
        record = read_record(Run(compared / "out" / "kd_seed1"))
        assert [step for step, _, _ in record.curve] == [2, 4]
        assert 0 < record.curve[0][1] < record.curve[1][1]
        assert record.curve[-1][2] == pytest.approx(record.result["last"]["miou"], abs=1e-6)
        assert record.value("miou") == record.result["student"]["miou"]

    def test_of_a_folder_what_is_not_finished_is_left_out(self, copied: Path):
        (copied / "result.json").rename(copied / "result.was")
        console = Console(record=True)
        with pytest.raises(SegkdError, match="holds no finished run"):
            read_records([copied.parent], console)
        assert "not finished, left out: tiny_seed0" in console.export_text()

    def test_an_unfinished_run(self, copied: Path):
        (copied / "result.json").unlink()
        with pytest.raises(SegkdError, match=r"tiny_seed0 is not finished: go on with 'segkd train --resume"):
            read_records([copied], CONSOLE)

    def test_no_run_at_all(self, tmp_path: Path):
        with pytest.raises(SegkdError, match="holds no finished run; expected a run directory"):
            read_records([tmp_path / "nowhere"], CONSOLE)

    @pytest.mark.parametrize("key", ["student", "last", "classes", "seed", "environment"])
    def test_a_result_that_lacks_something(self, copied: Path, key: str):
        result = json.loads((copied / "result.json").read_text())
        del result[key]
        (copied / "result.json").write_text(json.dumps(result))
        with pytest.raises(SegkdError, match=f"result.json has no '{key}'"):
            read_records([copied], CONSOLE)

    @pytest.mark.parametrize(
        ("part", "content", "says"),
        [
            ("last", {}, "expected 'miou' under 'last'"),
            ("environment", {}, "has no 'processes' under 'environment'"),
            ("student", {"miou": 0.5}, "has not one 'iou' for each class"),
            ("student", {"miou": 0.5, "iou": [0.5]}, "has not one 'iou' for each class"),
        ],
    )
    def test_a_part_of_a_result_that_lacks_something(self, copied: Path, part: str, content: dict, says: str):
        result = {**json.loads((copied / "result.json").read_text()), part: content}
        (copied / "result.json").write_text(json.dumps(result))
        with pytest.raises(SegkdError, match=says):
            read_records([copied], CONSOLE)

    def test_a_result_without_metrics(self, copied: Path):
        result = json.loads((copied / "result.json").read_text())
        result["student"] = {"step": 4}
        (copied / "result.json").write_text(json.dumps(result))
        with pytest.raises(SegkdError, match=r"has no metrics: expected 'miou' under 'student'"):
            read_records([copied], CONSOLE)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (None, "No such file"),
            ("step,val/miou\n2,0.5\n", "no column 'seconds'"),
            ("step,seconds,val/miou\n", "has no rows"),
            ("step,seconds,val/miou\n2,soon,0.5\n", "soon"),
        ],
    )
    def test_metrics_that_cannot_be_read(self, copied: Path, text: str | None, reason: str):
        (copied / "metrics.csv").unlink()
        if text is not None:
            (copied / "metrics.csv").write_text(text)
        with pytest.raises(SegkdError, match=reason):
            read_records([copied], CONSOLE)

    def test_other_tasks_do_not_mix(self, compared: Path, detectors: Path):
        with pytest.raises(SegkdError, match="cannot be compared: their task is 'segmentation' and 'detection'"):
            read_records([compared / "out", detectors / "out" / "tiny_seed0"], CONSOLE)

    def test_other_classes_do_not_mix(self, compared: Path, copied: Path):
        result = json.loads((copied / "result.json").read_text())
        result["classes"][0] = "heaven"
        (copied / "result.json").write_text(json.dumps(result))
        with pytest.raises(SegkdError, match=r"tiny_seed0 cannot be compared: their classes are sky.* and heaven"):
            read_records([compared / "out" / "kd_seed0", copied], CONSOLE)

    def test_an_earlier_report_beside_the_runs(self, copied: Path):
        report = copied.parent / "comparison"
        report.mkdir()
        (report / MARKER).write_text('{"runs": []}')
        assert len(read_records([report, copied], CONSOLE)) == 1
        with pytest.raises(SegkdError, match="comparison holds no finished run"):
            read_records([report], CONSOLE)
        with pytest.raises(SegkdError, match="comparison holds no run"):
            read_records([report, report], CONSOLE)

    def test_a_measure_of_nothing_is_nan(self, records: list[Record]):
        record = dataclasses.replace(records[0], result={"student": {"miou": None}})
        assert record.value("miou") != record.value("miou")


class TestGrouping:
    def test_by_config(self, records: list[Record]):
        methods = group(records)
        assert [method.name for method in methods] == ["distilled", "kd", "tiny"]
        assert all(list(method.records) == [0, 1] for method in methods)

    def test_what_distils(self, records: list[Record]):
        assert {method.name: method.distils for method in group(records)} == {
            "distilled": True,
            "kd": True,
            "tiny": False,
        }

    def test_names_by_hand(self, records: list[Record]):
        tiny = next(record for record in records if record.config.name == "tiny_seed0")
        assert [m.name for m in group([named(tiny, "plain0", 0), named(tiny, "plain1", 1)])] == ["plain"]
        assert [m.name for m in group([named(tiny, "kd-s10", 0), named(tiny, "kd-s11", 1)])] == ["kd"]
        assert [m.name for m in group([named(tiny, "kd10", 0)])] == ["kd10"]
        assert [m.name for m in group([named(tiny, "kd-_seed0", 0), named(tiny, "kd-_seed1", 1)])] == ["kd-"]
        assert [m.name for m in group([named(tiny, "first", 0), named(tiny, "second", 1)])] == ["first"]

    def test_two_methods_of_one_name(self, records: list[Record]):
        one, other = (next(r for r in records if r.config.name == f"{name}_seed0") for name in ("tiny", "kd"))
        assert [m.name for m in group([named(one, "a", 0), named(other, "a", 0)])] == ["a", "a (2)"]

    def test_the_same_run_twice(self, records: list[Record]):
        with pytest.raises(SegkdError, match="the same config with the same seed 0"):
            group([records[0], records[0]])

    def test_the_order_of_the_seeds(self, records: list[Record]):
        (method,) = group([record for record in records if "kd" in record.config.name][::-1])
        assert method.first.config.seed == 0


class TestBaseline:
    @pytest.fixture
    def methods(self, records: list[Record]) -> list[Method]:
        return group(records)

    def test_is_what_distils_nothing(self, methods: list[Method]):
        assert find_baseline(methods).name == "tiny"

    def test_is_not_a_teacher_that_is_compared_too(self, methods: list[Method]):
        plain = next(method for method in methods if method.name == "tiny")
        config = plain.first.config
        large = config.model_copy(update={"student": config.student.model_copy(update={"encoder": "resnet50"})})
        teacher = Method("teacher", {0: dataclasses.replace(plain.first, config=large)})
        assert find_baseline([teacher, *methods]).name == "tiny"
        assert find_baseline([teacher, plain]).name == "teacher"

    def test_or_the_first(self, methods: list[Method]):
        assert find_baseline([method for method in methods if method.distils]).name == "distilled"

    def test_or_what_is_asked_for(self, methods: list[Method]):
        assert find_baseline(methods, "kd").name == "kd"
        with pytest.raises(SegkdError, match=r"--baseline 'plain' is none of the methods: distilled, kd, tiny"):
            find_baseline(methods, "plain")


def test_differing_keys(records: list[Record]):
    found = differing_keys(group(records))
    assert found["distill.terms.icsd.weight"] == [0.01, None, None]
    assert found["distill.terms.kd.loss"] == ["pixel_kd", "pixel_kd", None]
    assert not {"name", "seed", "runs", "data.batch_size"} & set(found)
