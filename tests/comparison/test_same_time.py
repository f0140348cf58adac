import json
from pathlib import Path
from typing import Any

import pytest
from experiments import make_experiment, refused, segkd, start, train, write
from rich.console import Console
from shell import run_here

from segkd.comparison import same_time, work
from segkd.comparison.plan import load_methods
from segkd.comparison.same_time import longer_baselines, merged, rounds_of
from segkd.comparison.timing import charges_of, has_charges, seconds_per_step, seconds_per_view, shared
from segkd.comparison.work import Workplace
from segkd.errors import SegkdError
from segkd.store.store import stores
from segkd.training.config import load_config

CONSOLE = Console(quiet=True)


def stored(folder: Path) -> Path:
    """Add a config of a teacher that is stored, with a head that is fitted to it first, and one without."""
    teacher = {"store": {"folder": str(folder / "kept")}}
    native = {"terms": {"icsd": None, "kd": {"loss": "pixel_kd", "size": "native"}}, "schedule": None}
    content = {"base": "distilled.yaml", "data": {"views": 2, "view_seed": 5}, "distill": native}
    write(folder / "kept.yaml", {**content, "name": "kept", "teacher": teacher})
    fit = {"teacher": {"auxiliary": "fit", "auxiliary_fit": {"steps": 2}}, "distill": {"pixel_weighting": {"rdd": {}}}}
    write(folder / "rdd.yaml", {"base": "distilled.yaml", "name": "rdd", **fit})
    return folder


class TestSteps:
    def test_near_ones_are_one_in_the_baselines_favour(self):
        found = merged([1300, 1280, 1240, 1230, 1100], own=1000)
        assert found == {1300: 1300, 1280: 1300, 1240: 1300, 1230: 1230, 1100: 1100}
        assert merged([1200.2], own=1000) == {1200.2: 1201}

    def test_what_costs_as_much_or_less_is_compared_to_the_same_steps(self):
        assert merged([1019, 1020, 700], own=1000) == {1019: 1000, 1020: 1020, 700: 1000}

    def test_what_is_trained_already_serves(self):
        assert merged([1200, 1215, 1240], own=1000, taken=[1230]) == {1200: 1230, 1215: 1230, 1240: 1240}


def test_few_methods_are_timed_more_often_and_many_three_times():
    assert [rounds_of(count) for count in (2, 3, 4, 5, 7, 30)] == [7, 7, 5, 4, 3, 3]


def test_a_filling_is_shared_by_the_runs_that_read_it():
    def charge(*stores: tuple[str, int, dict[str, float]]) -> dict[str, Any]:
        return {"stores": [{"folder": name, "runs": runs, "spent": spent} for name, runs, spent in stores]}

    charges = {
        "logits": charge(("one", 3, {"logits": 12.0})),
        "features": charge(("one", 3, {"logits": 12.0, "layer4": 6.0})),
        "elsewhere": charge(("two", 1, {"logits": 5.0})),
        "plain": charge(),
    }
    found = shared(charges)
    assert found == {"logits": 2.0, "features": 4.0, "elsewhere": 5.0, "plain": 0.0}
    assert 3 * (found["logits"] + found["features"]) == 12 + 6  # all that was spent, no more


class TestAgreed:
    @pytest.fixture
    def place(self, experiment: Path) -> Workplace:
        place = Workplace(experiment / "out")
        known = {"baseline": "tiny", "steps": {"distilled": [9, 6], "another": [12, 4]}}
        place.agree({"budget": "4 steps", "same_time": known})
        return place

    def longer(self, experiment: Path, place: Workplace, baseline: str) -> list[tuple[str, int]]:
        methods = load_methods([str(experiment / f"{n}.yaml") for n in ("tiny", "distilled")], [], place.directory)
        found = longer_baselines(place, methods, {"tiny": 4, "distilled": 4}, baseline, 2, CONSOLE)
        return [(config.name, config.trainer.max_steps) for config in found]

    def test_stands_for_the_methods_that_are_compared(self, experiment: Path, place: Workplace):
        assert self.longer(experiment, place, "tiny") == [("tiny_6steps", 6), ("tiny_9steps", 9)]

    def test_another_baseline_is_refused(self, experiment: Path, place: Workplace):
        with pytest.raises(SegkdError, match="in the time of the baseline tiny, not distilled: choose another --out"):
            self.longer(experiment, place, "distilled")


def test_minutes_are_the_same_time_already(experiment: Path):
    refused(segkd("compare", experiment / "tiny.yaml", "--same-time", "--budget", "3minutes"), "--same-time goes with")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = stored(make_experiment(tmp_path_factory.mktemp("taught")))
    train(folder / "teacher.yaml")
    return folder


def test_what_a_run_does_before_its_first_step_is_charged(taught: Path):
    kept, rdd, plain = (load_config(str(taught / f"{name}.yaml")) for name in ("kept", "rdd", "tiny"))
    assert (has_charges(kept), has_charges(rdd), has_charges(plain)) == (True, True, False)
    first = charges_of(kept, 3, CONSOLE)
    (store,) = first["stores"]
    assert first["fitting"] == 0
    assert store["runs"] == 3
    assert store["alone"] > 0
    assert first["views"] == 8
    # 4 steps of 2 images see 8 of the 10 views, all seeds together more of them.
    assert store["alone"] < store["spent"]["logits"] <= 10 / 8 * store["alone"] + 1e-9
    assert charges_of(kept, 3, CONSOLE) == first  # filled by another run, or long ago: charged all the same
    assert charges_of(rdd, 3, CONSOLE)["fitting"] > 0
    # Another seed's views are others here: nobody shares its store.
    own = kept.model_copy(update={"data": kept.data.model_copy(update={"view_seed": None})})
    assert charges_of(own, 3, CONSOLE)["stores"][0]["runs"] == 1
    assert 0 < seconds_per_view(kept) < 10
    # Steps are timed as they are: with the teacher's outputs read.
    count = len(stores(taught / "kept"))
    assert seconds_per_step(kept) > 0
    assert len(stores(taught / "kept")) == count


@pytest.mark.slow
def test_a_baseline_is_trained_for_as_long_as_each_method_takes(experiment: Path, monkeypatch: pytest.MonkeyPatch):
    folder = stored(experiment)
    train(folder / "teacher.yaml")
    configs = [folder / f"{name}.yaml" for name in ("tiny", "kept")]
    arguments = ["compare", *configs, "--seeds", 2, "--budget", "6steps", "--out", folder / "out", "--pictures", 0]
    process = start(*arguments, "--same-time")
    printed = process.communicate(timeout=900)[0]
    assert process.returncode == 0, printed
    assert printed.index("run 4 of 4, kept_seed1, begins") < printed.index("a few steps of each method are timed")
    assert "timed: 7 of 7" in printed
    agreed = json.loads((folder / "out/comparison.json").read_text())["same_time"]
    assert agreed["baseline"] == "tiny"
    assert agreed["filling"]["kept"] > agreed["shared"]["kept"] > 0
    second = agreed["seconds_per_step"]["tiny"]
    for name, counts in agreed["steps"].items():
        for count, what in zip(counts, ("filling", "shared"), strict=True):
            bought = 6 * agreed["times"][name] + (agreed["fitting"][name] + agreed[what][name]) / second
            assert bought <= count <= 1.05 * bought + 1 or (count == 6 and bought < 6 * 1.02)
    for count in {count for counts in agreed["steps"].values() for count in counts} - {6}:
        for seed in (0, 1):
            result = json.loads((folder / f"out/tiny_{count}steps_seed{seed}/result.json").read_text())
            assert (result["steps"], result["seed"]) == (count, seed)
    report = (folder / "out/report.md").read_text()
    assert "| to tiny, same steps | to tiny, same time, in full | to tiny, same time, shared |" in report
    assert f"({agreed['steps']['kept'][0]})" in report
    # Of the baseline's two lengths the comparison says which one it is, also where the report goes elsewhere.
    assert not segkd("compare", "--report-only", folder / "out", "--out", folder / "other", "--pictures", 0).status
    other = (folder / "other/report.md").read_text()
    assert other == (folder / "out/report.md").read_text()
    again = segkd(*arguments, "--same-time")
    assert "timed" not in again.out
    assert "begins" not in again.out
    # Cut between two rounds of timing, it goes on with the last: without processes, which take longer than all else.
    monkeypatch.setattr(work, "run_job", lambda place, job, *_: not segkd("train", place.written(job.config)).status)
    monkeypatch.setattr(same_time, "run_timing", run_here)
    file = folder / "out/comparison.json"
    content = json.loads(file.read_text())
    whole = {name: [agreed["times"][name], 0.001] for name in ("tiny", "kept")}
    write(file, json.dumps({**content, "same_time": {"baseline": "tiny", "rounds": [whole] * 6}}))
    again = segkd(*arguments, "--same-time")
    assert [number for number in range(1, 8) if f"timed: {number} of 7" in again.out] == [7]
    found = json.loads(file.read_text())["same_time"]
    assert found["times"] == pytest.approx(agreed["times"])  # the median of what was there six times
    assert "rounds" not in found


def test_without_the_baselines_runs_nothing_is_trained_for_the_same_time(
    experiment: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(work, "run_job", lambda *_: False)
    other = write(experiment / "other.yaml", {"base": "tiny.yaml", "name": "other", "data": {"flip": 0}})
    outcome = segkd("compare", experiment / "tiny.yaml", other, "--same-time", "--seeds", 1, "--out", experiment / "o")
    assert outcome.status == 1
    assert "nothing is trained for the same time: a run of tiny failed\n" in outcome.out
