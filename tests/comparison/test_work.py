import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from experiments import expect_same, locked_by_a_child, printed_until, refused, segkd, start, train, write
from filelock import FileLock
from rich.console import Console

from segkd.comparison.plan import Budget, Job, load_methods, make_jobs
from segkd.comparison.timing import TIMED, WARM_UP, seconds_per_step
from segkd.comparison.work import Workplace, agree_on_steps, train_jobs
from segkd.errors import Interrupted, SegkdError
from segkd.signals import interruptible
from segkd.training.config import dump_config, load_config
from segkd.training.run import Run

CONSOLE = Console(quiet=True)


def test_a_written_config_means_what_it_did(tmp_path: Path):
    """Its teacher is a shipped name: what is written of that teacher is not another one."""
    place, names = Workplace(tmp_path / "out"), ("quickstart_teacher", "quickstart")
    (methods,) = zip(*[load_methods([name], [], place.directory) for name in names], strict=True)
    read = [load_config(str(place.written(config))) for config in methods]
    assert [dump_config(config) for config in read] == [dump_config(config) for config in methods]


class TestSteps:
    @pytest.fixture
    def methods(self, experiment: Path) -> list:
        write(experiment / "long.yaml", {"base": "tiny.yaml", "name": "long", "trainer": {"max_steps": 40}})
        return load_methods([str(experiment / f"{n}.yaml") for n in ("tiny", "long")], [], experiment / "out")

    @pytest.fixture
    def place(self, experiment: Path) -> Workplace:
        return Workplace(experiment / "out")

    def test_are_those_asked_for(self, place: Workplace, methods: list):
        steps = {"tiny": 7, "long": 7}
        assert agree_on_steps(place, methods, Budget("steps", 7), steps, "segkd compare", CONSOLE) == steps
        assert place.agreed() == {"command": "segkd compare", "budget": "7 steps", "steps": steps}

    def test_another_budget_in_the_same_place(self, place: Workplace, methods: list):
        agree_on_steps(place, methods, Budget("steps", 7), {"tiny": 7, "long": 7}, "segkd compare", CONSOLE)
        with pytest.raises(SegkdError, match="holds a comparison with the budget 7 steps, not minutes"):
            agree_on_steps(place, methods, Budget("minutes"), None, "segkd compare", CONSOLE)

    def test_minutes_become_steps_once(self, place: Workplace, methods: list):
        place.agree({"budget": "2 minutes", "seconds_per_step": {"tiny": 0.5, "long": 2.0}})
        steps = agree_on_steps(place, methods, Budget("minutes", 2), None, "segkd compare", CONSOLE)
        assert steps == {"tiny": 240, "long": 60}
        agreed = place.agreed()
        assert agreed["seconds"] == 120
        # What was agreed stands, whatever a second timing would say.
        place.agree({**agreed, "seconds_per_step": {"tiny": 9.0, "long": 9.0}})
        assert agree_on_steps(place, methods, Budget("minutes", 2), None, "segkd compare", CONSOLE) == steps

    def test_minutes_without_a_number_are_the_dearest_configs(self, place: Workplace, methods: list):
        place.agree({"budget": "minutes", "seconds_per_step": {"tiny": 0.5, "long": 0.1}})
        # tiny takes 4 * 0.5 = 2 s for its own steps, long 40 * 0.1 = 4 s.
        assert agree_on_steps(place, methods, Budget("minutes"), None, "segkd compare", CONSOLE) == {
            "tiny": 8,
            "long": 40,
        }

    def test_a_budget_below_one_step_is_one_step(self, place: Workplace, methods: list):
        place.agree({"budget": "0.01 minutes", "seconds_per_step": {"tiny": 50.0, "long": 0.1}})
        assert agree_on_steps(place, methods, Budget("minutes", 0.01), None, "segkd compare", CONSOLE) == {
            "tiny": 1,
            "long": 6,
        }

    def test_a_damaged_agreement(self, place: Workplace):
        place.file.write_text("{")
        with pytest.raises(SegkdError, match=r"comparison.json cannot be read"):
            place.agreed()

    @pytest.mark.parametrize("text", ["[]", '{"mine": 1}'])
    def test_a_comparison_json_of_somebody_else(self, place: Workplace, methods: list, text: str):
        place.file.write_text(text)
        steps = {"tiny": 7, "long": 7}
        with pytest.raises(SegkdError, match=r"comparison.json was not written by 'segkd compare': choose another"):
            agree_on_steps(place, methods, Budget("steps", 7), steps, "segkd compare", CONSOLE)
        assert place.file.read_text() == text


def test_steps_are_timed_without_writing_anything(experiment: Path):
    before = sorted(experiment.rglob("*"))
    config = load_config(str(experiment / "distilled.yaml"))
    begin = time.perf_counter()
    seconds = seconds_per_step(config)
    taken = time.perf_counter() - begin
    assert 0 < seconds * TIMED < taken * 2
    assert WARM_UP > 0
    assert sorted(experiment.rglob("*")) == before


class TestWorkplace:
    @pytest.mark.parametrize("name", ["notes.txt", "report.md"])
    def test_other_files_are_in_the_way(self, tmp_path: Path, name: str):
        write(tmp_path / "out" / name, "mine")
        with pytest.raises(SegkdError, match=f"holds other files \\({name}\\): choose another --out"):
            Workplace(tmp_path / "out")

    def test_a_file_is_in_the_way(self, tmp_path: Path):
        write(tmp_path / "out", "mine")
        with pytest.raises(SegkdError, match="is a file"):
            Workplace(tmp_path / "out")

    def test_runs_are_not(self, compared: Path, tmp_path: Path):
        write(tmp_path / "a" / "config.yaml", (compared / "out" / "kd_seed0" / "config.yaml").read_text())
        Workplace(tmp_path)
        Workplace(tmp_path)


def test_a_run_ends_with_what_started_it(experiment: Path):
    arguments = [experiment / "tiny.yaml", "trainer.max_steps=100000", "trainer.checkpoint_every=1"]
    command = [sys.executable, "-m", "segkd.comparison.child", "train", *map(str, arguments)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    while not (experiment / "runs" / "tiny" / "checkpoints" / "last.ckpt").is_file():
        assert child.poll() is None
        time.sleep(0.05)
    assert child.stdin
    child.stdin.close()  # as when this process is killed
    assert child.wait(timeout=20) == 1


class TestARunThatAnotherProcessHas:
    @pytest.fixture
    def job(self, experiment: Path) -> Job:
        methods = load_methods([str(experiment / "tiny.yaml")], ["trainer.max_steps=1"], experiment / "out")
        return make_jobs(methods, 1, {"tiny": 1})[0]

    def train(self, experiment: Path, job: Job) -> str:
        out = io.StringIO()
        assert train_jobs(Workplace(experiment / "out"), [job], Console(file=out, width=200)) == []
        return out.getvalue()

    def test_is_taken_over_when_that_is_killed(self, experiment: Path, job: Job):
        lock = Path(Workplace(experiment / "out").lock("tiny_seed0").lock_file)
        with locked_by_a_child(lock) as child:
            threading.Timer(1, child.kill).start()
            printed = self.train(experiment, job)
        assert printed.splitlines() == [
            "waiting for runs that other processes train: tiny_seed0",
            "run 1 of 1, tiny_seed0, is taken over: the process that had it left it unfinished",
        ]
        assert job.run.result()["steps"] == 1

    def test_is_counted_when_that_finishes_it(self, experiment: Path, job: Job):
        lock = Path(Workplace(experiment / "out").lock("tiny_seed0").lock_file)
        job.run.create(job.config)
        with locked_by_a_child(lock, f"pathlib.Path({str(job.run.result_file)!r}).write_text('{{}}')") as child:
            assert child.stdin
            threading.Timer(1, child.stdin.close).start()
            printed = self.train(experiment, job)
        assert printed == "waiting for runs that other processes train: tiny_seed0\n"
        assert not job.run.begun

    def test_is_not_waited_for_after_a_signal(self, experiment: Path, job: Job):
        lock = Path(Workplace(experiment / "out").lock("tiny_seed0").lock_file)
        with locked_by_a_child(lock), interruptible():
            threading.Timer(1, os.kill, (os.getpid(), signal.SIGTERM)).start()
            with pytest.raises(Interrupted):
                self.train(experiment, job)
        assert not job.run.directory.exists()


def test_no_run_is_trained_by_two(experiment: Path):
    train(experiment / "tiny.yaml", "name=mine")
    run = Run(experiment / "runs" / "mine")
    run.result_file.unlink()
    with FileLock(run.directory / ".lock"):
        refused(segkd("train", "--resume", run.directory), "mine is being trained by another process")
    train("--resume", run.directory)


def test_no_run_is_begun_by_two(experiment: Path):
    directory = experiment / "runs" / "tiny"
    directory.mkdir(parents=True)
    with FileLock(directory / ".lock"):
        refused(segkd("train", experiment / "tiny.yaml"), "tiny is being trained by another process")
    assert not (directory / "config.yaml").exists()
    train(experiment / "tiny.yaml")


@pytest.mark.slow
class TestProcesses:
    def test_two_share_a_directory(self, experiment: Path):
        write(experiment / "kd.yaml", {"base": "distilled.yaml", "name": "kd", "optimizer": {"lr": 0.002}})
        out = experiment / "out"
        arguments = [*(experiment / f"{name}.yaml" for name in ("distilled", "kd")), "--seeds", 1, "--out", out]
        both = [start("compare", *arguments) for _ in range(2)]
        printed = [process.communicate(timeout=600)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], printed
        together = "".join(printed)
        for name in ("distilled_seed0", "kd_seed0"):
            assert together.count(f"{name}, begins") == 1
        assert together.count("teacher: step 4/4") == 1
        assert "written: " in together
        outcome = segkd("compare", *arguments)  # whoever comes later finds all done
        assert "begins" not in outcome.out
        assert "- runs: 2, of 2 methods" in (out / "report.md").read_text()

    def test_a_killed_comparison_goes_on(self, experiment: Path):
        out = experiment / "out"
        arguments = [experiment / "tiny.yaml", "--seeds", 1, "--out", out, "--budget", "40steps"]
        first = start("compare", *arguments, "trainer.checkpoint_every=1")
        while not (out / "tiny_seed0" / "checkpoints" / "last.ckpt").is_file():
            assert first.poll() is None
            time.sleep(0.05)
        first.kill()  # it alone: its run must not go on without it, in the way of the next
        first.wait(timeout=60)
        outcome = start("compare", *arguments, "trainer.checkpoint_every=1")
        printed = outcome.communicate(timeout=600)[0]
        assert outcome.returncode == 0, printed
        assert "run 1 of 1, tiny_seed0, goes on" in printed
        assert "being trained by another process" not in printed
        assert json.loads((out / "tiny_seed0" / "result.json").read_text())["steps"] == 40

    def test_the_run_of_one_that_is_killed_is_taken_over(self, experiment: Path):
        # With data workers, which outlive it by some seconds; and with a run that fails whoever tries it.
        settings = ["trainer.checkpoint_every=1", "validation.every=50", "data.workers=1"]
        write(experiment / "bad.yaml", {"base": "tiny.yaml", "name": "bad", "optimizer": {"lr": 1e30}})
        out = experiment / "out"
        configs = [experiment / "tiny.yaml", experiment / "bad.yaml"]
        arguments = ["compare", *configs, "--seeds", 1, "--out", out, "--budget", "300steps", *settings]
        first = start(*arguments)
        while not (out / "tiny_seed0" / "checkpoints" / "last.ckpt").is_file():
            assert first.poll() is None
            time.sleep(0.05)
        second = start(*arguments)
        printed = printed_until(second, "waiting for runs that other processes train: tiny_seed0")
        assert printed.count("bad_seed0, begins") == 1
        first.kill()
        first.wait(timeout=60)
        printed = second.communicate(timeout=600)[0]
        assert "run 1 of 2, tiny_seed0, is taken over" in printed
        assert "failed: bad_seed0" in printed
        assert "bad_seed0, is taken over" not in printed
        assert second.returncode == 1, printed
        reference = experiment / "reference"
        changes = ["name=tiny_seed0", "seed=0", f"runs={reference}", "trainer.max_steps=300"]
        train(experiment / "tiny.yaml", *changes, *settings)
        expect_same(out / "tiny_seed0", reference / "tiny_seed0")

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_an_interrupted_comparison_passes_it_on(self, experiment: Path, number: signal.Signals):
        out = experiment / "out"
        arguments = [experiment / "tiny.yaml", "--seeds", 1, "--out", out, "--budget", "100000steps"]
        process = start("compare", *arguments)
        while not list((out / "tiny_seed0").glob("events*")):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        printed = process.communicate(timeout=100)[0]
        assert process.returncode == 128 + number, printed
        assert printed.endswith(f"interrupted by {number.name}: the same command goes on where this stopped\n")
        assert (out / "tiny_seed0" / "checkpoints" / "last.ckpt").is_file()  # long before the first that is due
        assert not (out / "report.md").exists()

    def test_one_failing_method_does_not_stop_the_others(self, experiment: Path):
        write(experiment / "bad.yaml", {"base": "tiny.yaml", "name": "bad", "optimizer": {"lr": 1e30}})
        configs = [experiment / "bad.yaml", experiment / "tiny.yaml"]
        outcome = start("compare", *configs, "--seeds", 1, "--out", experiment / "out", "--budget", "3steps")
        printed = outcome.communicate(timeout=600)[0]
        assert outcome.returncode == 1, printed
        assert "failed: bad_seed0" in printed
        assert "is not finite" in printed
        assert "- runs: 1, of 1 methods" in (experiment / "out" / "report.md").read_text()

    def test_minutes_give_a_cheaper_method_more_steps(self, experiment: Path):
        big = {"base": "tiny.yaml", "name": "big", "data": {"crop": [192, 256]}, "trainer": {"max_steps": 4}}
        write(experiment / "big.yaml", big)
        configs = [experiment / "tiny.yaml", experiment / "big.yaml"]
        outcome = start("compare", *configs, "--seeds", 1, "--out", experiment / "out", "--budget", "minutes")
        printed = outcome.communicate(timeout=600)[0]
        assert outcome.returncode == 0, printed
        agreed = json.loads((experiment / "out" / "comparison.json").read_text())
        assert agreed["steps"]["big"] == 4
        assert agreed["steps"]["tiny"] > 4
        result = json.loads((experiment / "out" / "tiny_seed0" / "result.json").read_text())
        assert result["steps"] == agreed["steps"]["tiny"]
        assert (
            f"- budget: minutes: 4, {agreed['steps']['tiny']} steps" in (experiment / "out" / "report.md").read_text()
        )
