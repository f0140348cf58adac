import csv
import signal
import threading
import time
from pathlib import Path

import matplotlib.image
import pytest
import yaml
from experiments import printed_until, refused, segkd, start, train, write
from tuning.conftest import Pretended

import segkd as package
from segkd.comparison import work
from segkd.errors import SegkdError
from segkd.training.config import load_config
from segkd.training.run import Run
from segkd.tuning import tune as tuning

RATE = "optimizer.lr=0.001..0.1"


def tune(*arguments: object, status: int = 0) -> str:
    outcome = segkd("tune", *arguments)
    assert outcome.status == status, outcome
    return outcome.out


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


class TestPretended:
    def test_what_a_trial_is(self, experiment: Path, pretended: Pretended):
        tune("tiny.yaml", RATE, "--trials", 2, "--hold-out", 0.4, "--seed", 5, "data.flip=0", "trainer.max_steps=20")
        first, second = pretended.configs
        assert (first.name, first.runs) == ("trial_0", str(experiment / "runs/tune/tiny"))
        assert (first.data.train_split, first.data.val_split) == ("train/rest/0.4", "train/held_out/0.4")
        assert (first.seed, second.seed, first.data.flip) == (5, 5, 0)
        assert first.validation.every == 2  # the config's own, or a fifth of the steps where that is less
        assert first.optimizer.lr != second.optimizer.lr
        assert min(first.optimizer.lr, second.optimizer.lr) >= 0.001

    def test_the_best_comes_first_and_can_be_trained(self, experiment: Path, pretended: Pretended):
        out = tune("tiny.yaml", RATE, "data.flip=0,0.5", "trainer.threads=2", "--trials", 9, "--hold-out", 0.4)
        folder = experiment / "runs/tune/tiny"
        best = max(pretended.configs, key=pretended.reaches)
        found = rows(folder)
        assert [*found[0]] == ["trial", "optimizer.lr", "data.flip", "miou", "step", "state"]
        assert float(found[0]["miou"]) == pretended.reaches(best)
        scores = [float(row["miou"]) for row in found if row["state"] == "finished"]
        assert scores == sorted(scores, reverse=True)
        table = out[out.index("trial  ") :].splitlines()[:10]
        assert table[1].split()[:2] == [found[0]["trial"], f"{best.optimizer.lr:.4g}"]
        assert max(map(len, table)) <= 80
        config = load_config(str(folder / "best.yaml"))
        assert (config.optimizer.lr, config.data.flip) == (best.optimizer.lr, best.data.flip)
        assert (config.name, config.trainer.threads, config.data.train_split) == ("tiny_best", 2, "train")
        assert yaml.safe_load((folder / "best.yaml").read_text())["base"] == str(experiment / "tiny.yaml")
        assert matplotlib.image.imread(folder / "tuning.png").shape[1] > 1000

    def test_what_falls_behind_is_pruned(self, experiment: Path, pretended: Pretended):
        out = tune("tiny.yaml", RATE, "--trials", 12, "--hold-out", 0.4, "trainer.max_steps=10")
        states = [row["state"] for row in rows(experiment / "runs/tune/tiny")]
        assert {"finished", "pruned"} == {*states}
        assert states == sorted(states)  # pruned ones behind
        assert "pruned at step 2 of 10" in out
        assert len(states) == 12

    def test_goes_on_where_it_was(self, experiment: Path, pretended: Pretended):
        tune("tiny.yaml", RATE, "--trials", 2, "--hold-out", 0.4)
        assert "trial 2, 2 of 3 are finished" in tune("tiny.yaml", RATE, "--trials", 3, "--hold-out", 0.4)
        assert [config.name for config in pretended.configs] == ["trial_0", "trial_1", "trial_2"]
        tune("tiny.yaml", RATE, "--trials", 3, "--hold-out", 0.4)
        assert len(pretended.configs) == 3

    def test_proposes_the_same_to_the_same(self, experiment: Path, pretended: Pretended):
        for name in ("a", "b"):
            tune("tiny.yaml", f"name={name}", RATE, "--trials", 3, "--hold-out", 0.4)
        rates = [config.optimizer.lr for config in pretended.configs]
        assert rates[:3] == rates[3:]
        assert len({*rates}) == 3

    def test_an_unfinished_trial_is_taken_up_again(self, experiment: Path, pretended: Pretended):
        whole, pretended.reaches = pretended.reaches, power_cut
        assert segkd("tune", "tiny.yaml", RATE, "--hold-out", 0.4).status == 1
        pretended.reaches = whole
        tune("tiny.yaml", RATE, "--trials", 1, "--hold-out", 0.4)
        first, again = pretended.configs
        assert (first.name, first.optimizer.lr) == (again.name, again.optimizer.lr)
        assert [row["state"] for row in rows(experiment / "runs/tune/tiny")] == ["finished"]

    def test_failed_trials(self, experiment: Path, pretended: Pretended):
        whole = pretended.reaches
        pretended.reaches = lambda config: 1 / 0 if config.name == "trial_1" else whole(config)
        out = tune("tiny.yaml", RATE, "--trials", 2, "--hold-out", 0.4)
        assert "trial 1: failed" in out
        assert [row["state"] for row in rows(experiment / "runs/tune/tiny")] == ["finished", "finished", "failed"]
        pretended.reaches = lambda config: 1 / 0
        refused(segkd("tune", "tiny.yaml", RATE, "--hold-out", 0.4), "the last 3 trials failed, see above")
        assert len(pretended.configs) == 6

    def test_the_time_is_over(self, experiment: Path, pretended: Pretended):
        pretended.reaches = lambda config: time.sleep(1) or 0.5
        outcome = segkd("tune", "tiny.yaml", RATE, "--minutes", 0.01, "--hold-out", 0.4)
        refused(outcome, "no trial is finished yet: the same command goes on, give it more --minutes")
        assert "trial 0: stopped at step 1" in outcome.out
        assert not (experiment / "runs/tune/tiny/best.yaml").exists()

    def test_a_signal_ends_it_with_what_there_is(self, experiment: Path, pretended: Pretended):
        def reaches(config):
            if config.name == "trial_1":
                signal.raise_signal(signal.SIGINT)
            return 0.5

        pretended.reaches = reaches
        outcome = segkd("tune", "tiny.yaml", RATE, "--hold-out", 0.4)
        assert outcome.status == 130
        assert outcome.err == "segkd: interrupted by SIGINT: the same command goes on where this stopped\n"
        assert [row["state"] for row in rows(experiment / "runs/tune/tiny")] == ["finished", "unfinished"]

    def test_a_best_of_ones_own_is_not_overwritten(self, experiment: Path, pretended: Pretended):
        tune("tiny.yaml", RATE, "--trials", 1, "--hold-out", 0.4)
        best = experiment / "runs/tune/tiny/best.yaml"
        best.write_text(best.read_text() + "seed: 7\n")
        refused(segkd("tune", "tiny.yaml", RATE, "--hold-out", 0.4), "is not as 'segkd tune' has left it: move it away")
        assert best.read_text().endswith("seed: 7\n")
        assert len(pretended.configs) == 1

    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            (
                ["optimizer.lr=0.001..0.2"],
                "is a study of optimizer.lr=0.001..0.1: give another name=..., or those keys",
            ),
            (["data.flip=0,1"], "is a study of optimizer.lr=0.001..0.1"),
            ([RATE, "data.blur=1"], "is a study with another data.blur: give another name=..."),
            ([RATE, "--seed", 3], "with another seed"),
            ([RATE, "--hold-out", 0.2], "with another data.train_split, data.val_split"),
        ],
    )
    def test_a_study_of_something_else(self, experiment: Path, pretended: Pretended, changes: list, says: str):
        tune("tiny.yaml", RATE, "--trials", 1, "--hold-out", 0.4)
        refused(segkd("tune", "tiny.yaml", "--hold-out", 0.4, *changes), says)
        assert len(pretended.configs) == 1

    @pytest.mark.slow
    def test_in_a_database(self, experiment: Path, pretended: Pretended):
        url = f"sqlite:///{experiment}/studies.db"
        for count in (1, 2):
            tune("tiny.yaml", RATE, "--trials", count, "--hold-out", 0.4, "--storage", url)
        assert len(rows(experiment / "runs/tune/tiny")) == 2
        assert not (experiment / "runs/tune/tiny/study.log").exists()
        refused(
            segkd("tune", "tiny.yaml", RATE, "--hold-out", 0.4, "--storage", "nosql://x"), "nosql://x cannot be opened"
        )

    def test_from_python(self, experiment: Path, pretended: Pretended, capsys: pytest.CaptureFixture[str]):
        space = {"optimizer.lr": "0.001..0.1", "data.crop": [[64, 96], [32, 32]]}
        tuned = package.tune("tiny.yaml", space, trials=4, hold_out=0.4, quiet=True, data={"flip": 0.0})
        assert capsys.readouterr() == ("", "")
        best = max(pretended.configs, key=pretended.reaches)
        assert tuned.values == {"optimizer.lr": best.optimizer.lr, "data.crop": list(best.data.crop)}
        assert tuned.score == pretended.reaches(best)
        assert [trial["state"] for trial in tuned.trials] == ["finished"] * 4
        assert load_config(str(tuned.config)).data == best.data.model_copy(
            update={"train_split": "train", "val_split": "val"}
        )
        loaded = load_config("tiny.yaml", ["name=loaded"])
        again = package.tune(loaded, {"optimizer.lr": [0.1, 0.2]}, trials=1, hold_out=0.4, quiet=True)
        assert load_config(str(again.config)).name == "loaded_best"
        with pytest.raises(SegkdError, match=r"optimizer\.lr: '1' is neither a range"):
            package.tune(loaded, {"optimizer.lr": "1"})


def power_cut(config: object) -> float:
    raise RuntimeError("the power went")


class TestRefused:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["data.flip=0"], "segkd tune takes at least one KEY=A..B or KEY=A,B,C to search over"),
            (["optimizer.lrr=1..2"], "there is no key 'optimizer.lrr', did you mean 'lr'?"),
            (["optimizer.lr=3..1"], "optimizer.lr=3..1 is no range"),
            (["data.flip=0..2"], "data.flip: expected at most 1, got 2"),
            ([RATE, "--hold-out", 1], "a share between 0 and 1, got 1.0"),
            ([RATE, "--hold-out", 0], "a share between 0 and 1, got 0.0"),
            ([RATE, "--hold-out", 0.05], "of 5 images a share of 0.05 leaves none to hold out"),
            ([RATE, "trainer.max_step=3"], "did you mean 'max_steps'?"),
        ],
        ids=str,
    )
    def test_before_anything_is_written(self, experiment: Path, arguments: list, says: str):
        refused(segkd("tune", "distilled.yaml", *arguments), says)
        assert not (experiment / "runs").exists()

    def test_a_database_leaves_nothing_either(self, experiment: Path, pretended: Pretended):
        refused(segkd("tune", "tiny.yaml", RATE, "--hold-out", 0.4, "--storage", "nosql://x"), "cannot be opened")
        assert not (experiment / "runs").exists()
        url = f"sqlite:///{experiment}/studies.db"
        tune("tiny.yaml", RATE, "--trials", 1, "--hold-out", 0.4, "--storage", url)
        elsewhere = ["--storage", url, f"runs={experiment / 'elsewhere'}"]
        refused(segkd("tune", "tiny.yaml", RATE, "--hold-out", 0.2, *elsewhere), "is a study with another")
        assert not (experiment / "elsewhere").exists()

    def test_without_optuna(self, experiment: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(tuning.importlib.util, "find_spec", lambda name: None)
        refused(segkd("tune", "tiny.yaml", RATE), 'segkd tune needs Optuna: pip install "segkd[tune]"')

    def test_other_files_are_in_the_way(self, experiment: Path):
        write(experiment / "runs/tune/tiny/notes.txt", "mine")
        refused(
            segkd("tune", "tiny.yaml", RATE, "--hold-out", 0.4), "holds other files (notes.txt): give another name=..."
        )

    def test_another_teacher_is_there(self, experiment: Path):
        train("teacher.yaml", "trainer.max_steps=1")
        refused(
            segkd("tune", "distilled.yaml", RATE, "--hold-out", 0.4),
            "runs/teacher was made with another trainer.max_steps",
        )


def test_trials_are_taught_by_the_teacher_of_all_of_train(experiment: Path, monkeypatch: pytest.MonkeyPatch):
    def in_process(place, job, *_):
        return segkd("train", place.written(job.config)).status == 0

    monkeypatch.setattr(work, "run_job", in_process)
    key = "distill.terms.kd.temperature"
    tune("distilled.yaml", f"{key}=1,2", "trainer.max_steps=2", "--trials", 2, "--hold-out", 0.4)
    teacher = Run(experiment / "runs/teacher")
    assert (teacher.config().data.train_split, teacher.config().data.val_split) == ("train", "val")
    runs = [Run(experiment / f"runs/tune/distilled/trial_{number}") for number in range(2)]
    assert [run.result()["split"] for run in runs] == ["train/held_out/0.4"] * 2
    assert {float(row["miou"]) for row in rows(runs[0].directory.parent)} == {
        run.result()["student"]["miou"] for run in runs
    }
    best = load_config("runs/tune/distilled/best.yaml")
    assert best.teacher.config == str(experiment / "teacher.yaml")
    assert best.teacher.overrides == {}


@pytest.mark.slow
class TestProcesses:
    ARGUMENTS = ("tune", "tiny.yaml", RATE, "--hold-out", 0.4, "trainer.checkpoint_every=1")

    def test_two_share_the_trials(self, experiment: Path):
        both = [start(*self.ARGUMENTS, "--trials", 4) for _ in range(2)]
        printed = [process.communicate(timeout=600)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], printed
        found = rows(experiment / "runs/tune/tiny")
        assert sorted(row["trial"] for row in found) == ["0", "1", "2", "3"]
        assert len({row["optimizer.lr"] for row in found}) == 4
        for number in range(4):
            assert "".join(printed).count(f"trial {number}, ") == 1
        train("runs/tune/tiny/best.yaml")
        assert Run("runs/tiny_best").result()["split"] == "val"

    def test_what_is_killed_goes_on(self, experiment: Path):
        long = (*self.ARGUMENTS, "--trials", 1, "trainer.max_steps=40")
        first = start(*long)
        printed_until(first, "trial 0: step ")
        first.kill()
        first.wait(timeout=60)
        second = start(*long)
        printed = second.communicate(timeout=600)[0]
        assert second.returncode == 0, printed
        assert "trial 0, 0 of 1 are finished" in printed
        assert [row["state"] for row in rows(experiment / "runs/tune/tiny")] == ["finished"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_the_run_with_a_checkpoint(self, experiment: Path, number: signal.Signals):
        process = start("tune", "tiny.yaml", RATE, "--hold-out", 0.4, "trainer.max_steps=100000")
        printed_until(process, "trial 0: step ")
        process.send_signal(number)
        printed = process.communicate(timeout=100)[0]
        assert process.returncode == 128 + number, printed
        assert printed.endswith(f"interrupted by {number.name}: the same command goes on where this stopped\n")
        assert printed.count("interrupted") == 1
        assert (experiment / "runs/tune/tiny/trial_0/checkpoints/last.ckpt").is_file()

    def test_one_takes_over_from_the_other(self, experiment: Path):
        long = (*self.ARGUMENTS, "--trials", 1, "trainer.max_steps=60")
        first = start(*long)
        printed_until(first, "trial 0: step ")
        second = start(*long)
        printed_until(second, "waiting for what other processes run: trial_0")
        threading.Timer(0.5, first.kill).start()
        printed = second.communicate(timeout=600)[0]
        assert second.returncode == 0, printed
        assert "trial 0: finished, mIoU" in printed
