import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from segkd.comparison.circumstances import facts_on, remarks_on
from segkd.comparison.differences import pooled_scatter
from segkd.comparison.records import Method, group, read_records
from segkd.comparison.tables import cost_table, measures_of, result_table, seed_table
from segkd.comparison.versus import longer_runs, ways_to_compare


@pytest.fixture
def methods(compared: Path) -> list[Method]:
    """A baseline, its runs of 6 and 9 steps, 2 points better and certain of it, and two methods."""
    found = {method.name: method for method in group(read_records([compared / "out"], Console(quiet=True)))}
    tiny = found["tiny"]
    return [tiny, longer(tiny, 6, 0.01), longer(tiny, 9, 0.02), found["distilled"], found["kd"]]


def longer(method: Method, steps: int, gain: float) -> Method:
    records = {}
    for seed, record in method.records.items():
        trainer = record.config.trainer.model_copy(update={"max_steps": steps})
        student = {**record.result["student"], "miou": record.value("miou") + gain}
        config = record.config.model_copy(update={"trainer": trainer})
        records[seed] = dataclasses.replace(record, config=config, result={**record.result, "student": student})
    return Method(f"{method.name}_{steps}steps", records)


def agreed(**changes: Any) -> dict[str, Any]:
    by_name = {"distilled": [9, 6], "kd": [4, 4]}
    costs = {"times": {"distilled": 1.5, "kd": 1.01}, "filling": {"distilled": 3.0}, "shared": {"distilled": 0.5}}
    return {"baseline": "tiny", "steps": by_name, "fitting": {}, **costs, **changes}


def test_without_an_agreement_there_are_the_same_steps(methods: list[Method]):
    for same_time in (None, {}, agreed(baseline="kd")):
        (way,) = ways_to_compare([methods[0], *methods[3:]], methods[0], same_time)
        assert way.heading == "same steps"
        assert set(way.baselines) == {"distilled", "kd"}


def test_each_method_has_the_baseline_of_its_time(methods: list[Method]):
    steps, full, shared = ways_to_compare(methods, methods[0], agreed())
    assert set(steps.baselines) == {"distilled", "kd"}  # not the baseline's longer runs
    names = [{name: method.name for name, method in way.baselines.items()} for way in (full, shared)]
    assert names == [{"distilled": "tiny_9steps", "kd": "tiny"}, {"distilled": "tiny_6steps", "kd": "tiny"}]
    assert [way.heading for way in (full, shared)] == ["same time, in full", "same time, shared"]


def test_with_nothing_to_share_there_is_one_time(methods: list[Method]):
    ways = ways_to_compare(methods, methods[0], agreed(filling={"distilled": 0.0}))
    assert [way.heading for way in ways] == ["same steps", "same time"]


def test_a_run_that_is_not_there_leaves_a_gap(methods: list[Method]):
    left = [method for method in methods if method.name != "tiny_6steps"]
    assert list(longer_runs(left, agreed())) == [9]
    shared = ways_to_compare(left, left[0], agreed())[2]
    assert set(shared.baselines) == {"kd"}
    row = result_table(left, left[0], ways_to_compare(left, left[0], agreed())).rows[-2]
    assert (row[0], row[5]) == ("distilled", "")


def test_the_tables_have_a_column_for_each(methods: list[Method]):
    ways = ways_to_compare(methods, methods[0], agreed())
    table = result_table(methods, methods[0], ways)
    assert table.header[3:6] == ["to tiny, same steps", "to tiny, same time, in full", "to tiny, same time, shared"]
    rows = {row[0]: row for row in table.rows}
    same, full, shared = (float(cell.split()[0]) for cell in rows["distilled"][3:6])
    assert (full, shared) == (pytest.approx(same - 2, abs=0.011), pytest.approx(same - 1, abs=0.011))
    assert rows["distilled"][4].endswith("(9)")
    assert rows["kd"][4] == f"{rows['kd'][3]} (4)"
    assert rows["tiny_9steps"][3:6] == ["", "", ""]
    assert "compared to the 4 steps" in table.note
    assert seed_table(methods, methods[0], ways).header[3:] == [
        "p, same steps", "p, same time, in full", "p, same time, shared",
    ]  # fmt: skip
    cost = cost_table(methods, methods[0], agreed())
    assert cost.header[6:] == ["timed, times tiny", "filling, s", "shared, s", "fitting, s"]
    assert [row[6:] for row in cost.rows if row[0] in ("tiny", "distilled")] == [
        ["", "", "", ""], ["1.50", "3.0", "0.5", ""],
    ]  # fmt: skip


def test_longer_runs_are_meant_to_have_other_steps(methods: list[Method]):
    known = {"budget": "4 steps", "same_time": agreed()}
    assert remarks_on(methods, methods[0], known) == []
    timed = agreed(seeds={"distilled": 5, "kd": 5})
    assert remarks_on(methods, methods[0], {**known, "same_time": timed}) == [
        "Fillings were shared by another number of seeds than are here: distilled by 5."
    ]
    assert remarks_on(methods, methods[0], {**known, "same_time": {**timed, "seeds": {"distilled": 2}}}) == []
    facts = facts_on(methods, known)
    assert ("runs", "10, of 3 methods") in facts
    assert ("budget", "4 steps of batch 2") in facts
    assert ("same time", "tiny also with 6, 9 steps") in facts


def test_the_scatter_of_all_runs_can_be_pooled(methods: list[Method]):
    """The longer baselines' runs count too; each column has the one scatter."""
    score = measures_of(methods[0])[0]
    ways = ways_to_compare(methods, methods[0], agreed(), pooled=True)
    known = [{seed: one.value("miou") for seed, one in method.records.items()} for method in methods]
    assert [way.scatter(score) for way in ways] == [pooled_scatter(known)] * 3
    own = ways_to_compare(methods, methods[0], agreed())
    assert own[0].scatter(score) is None
    for way, alone in zip(ways, own, strict=True):
        found, other = way.differences(methods, score), alone.differences(methods, score)
        assert {name: each.mean for name, each in found.items()} == {name: each.mean for name, each in other.items()}
        assert all(found[name].low != other[name].low for name in ("distilled", "kd"))
    scatter = pooled_scatter(known)
    notes = [result_table(methods, methods[0], each).note for each in (ways, own)]
    assert f"a run lies {score.shown(scatter.std)} (standard deviation, {scatter.degrees} degrees" in notes[0]
    assert "pooled" not in notes[1]
    notes = [seed_table(methods, methods[0], each).note for each in (ways, own)]
    assert ["scatter of all methods" in note for note in notes] == [True, False]
