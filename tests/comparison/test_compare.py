import shutil
from pathlib import Path

import pytest
from experiments import make_detection_experiment, refused, segkd, train, write


def test_what_a_person_sees(compared: Path):
    printed = (compared / "printed.txt").read_text()
    lines = printed.splitlines()
    assert lines[0].split() == ["method", "seeds", "mIoU", "mIoU", "to", "tiny"]
    assert [line.split()[0] for line in lines[1:5]] == ["teacher", "tiny", "distilled", "kd"]
    assert printed.endswith(f"written: {compared}/out/report.md\nwritten: {compared}/out/report.html\n")


def test_runs_go_beside_the_configs_own(experiment: Path):
    for name in ("tiny", "distilled"):
        train(experiment / f"{name}.yaml", f"name={name}_seed0", f"runs={experiment / 'runs' / 'comparison'}")
    configs = [experiment / "tiny.yaml", experiment / "distilled.yaml"]
    assert segkd("compare", *configs, "--seeds", 1).status == 0
    assert (experiment / "runs" / "comparison" / "report.html").is_file()


def test_a_teacher_whose_pupils_are_finished_is_not_trained(compared: Path, tmp_path: Path):
    out = shutil.copytree(compared / "out", tmp_path / "out")
    shutil.rmtree(out / "teacher")
    configs = [compared / f"{name}.yaml" for name in ("tiny", "distilled")]
    outcome = segkd("compare", *configs, "--seeds", 2, "--out", out, "--pictures", 0)
    assert outcome.status == 0, outcome.err
    assert not (out / "teacher").exists()


def test_the_scatter_stays_pooled_in_later_reports(compared: Path, tmp_path: Path):
    out = shutil.copytree(compared / "out", tmp_path / "out")
    configs = [compared / f"{name}.yaml" for name in ("tiny", "distilled", "kd")]
    told = "The scatter is pooled"
    assert told not in (out / "report.md").read_text()
    for words, pooled in (
        (("compare", *configs, "--seeds", 2, "--out", out, "--pictures", 0, "--pooled"), True),
        (("compare", "--report-only", out, "--pictures", 0), True),
        (("compare", *configs, "--seeds", 2, "--out", out, "--pictures", 0), False),
        (("compare", "--report-only", out, "--pictures", 0), False),
        (("compare", "--report-only", out, "--pictures", 0, "--pooled"), True),
    ):
        outcome = segkd(*words)
        assert outcome.status == 0, outcome.err
        report = (out / "report.md").read_text()
        assert (told in report) is pooled
        assert "--report-only" in words or ("--pooled" in report) is pooled  # in the command that it names


def test_the_command_that_a_report_names_gives_that_report(compared: Path, tmp_path: Path):
    out = shutil.copytree(compared / "out", tmp_path / "out")
    configs = [str(compared / f"{name}.yaml") for name in ("tiny", "kd")]
    words = ["compare", *configs, "--baseline", "kd", "--seeds", "2"]
    assert segkd(*words, "--out", out, "--pictures", 0).status == 0
    report = (out / "report.md").read_text()
    assert "mIoU to kd" in report
    assert "--baseline kd" in report.split("- command: ")[1].splitlines()[0]


class TestRefused:
    def test_other_data_sets(self, experiment: Path):
        write(experiment / "streets.yaml", {"base": "tiny.yaml", "name": "other", "data": {"dataset": "streets"}})
        outcome = segkd("compare", experiment / "tiny.yaml", experiment / "streets.yaml", "--out", experiment / "out")
        refused(outcome, "tiny and other cannot be compared", "data set")
        assert not (experiment / "out").exists()

    def test_other_tasks(self, experiment: Path, detectors: Path, compared: Path):
        make_detection_experiment(experiment / "detection")
        configs = [experiment / "distilled.yaml", experiment / "detection" / "tiny.yaml"]
        refused(segkd("compare", *configs, "--out", experiment / "out"), "cannot be compared", "task")
        runs = [compared / "out" / "tiny_seed0", detectors / "out" / "tiny_seed0"]
        refused(segkd("compare", "--report-only", *runs, "--out", experiment / "out"), "cannot be compared", "task")
        assert not (experiment / "out").exists()

    def test_a_budget_that_is_none(self, experiment: Path):
        refused(
            segkd("compare", experiment / "tiny.yaml", "--budget", "epochs"), "--budget is steps, minutes", "epochs"
        )

    def test_steps_that_do_not_match(self, experiment: Path):
        write(experiment / "long.yaml", {"base": "tiny.yaml", "name": "long", "trainer": {"max_steps": 6}})
        outcome = segkd("compare", experiment / "tiny.yaml", experiment / "long.yaml", "--out", experiment / "out")
        refused(outcome, "the budget is not matched")
        assert not (experiment / "out").exists()

    def test_the_same_time_of_one_config_alone(self, experiment: Path):
        outcome = segkd("compare", experiment / "tiny.yaml", "--same-time", "--out", experiment / "out")
        refused(outcome, "--same-time trains the baseline for as long as other configs take: name more than one CONFIG")
        assert not (experiment / "out").exists()

    @pytest.mark.parametrize("option", [["--same-time"], ["--on", "ray"]])
    def test_options_of_training_without_any(self, option: list[str], tmp_path: Path):
        refused(segkd("compare", "--report-only", tmp_path, *option), f"{option[0]} is for training")

    def test_a_baseline_that_is_not_compared(self, experiment: Path):
        refused(segkd("compare", experiment / "tiny.yaml", "--baseline", "plain"), "--baseline 'plain' is none of tiny")

    def test_a_directory_with_other_files(self, experiment: Path):
        write(experiment / "out" / "thesis.tex", "mine")
        refused(segkd("compare", experiment / "tiny.yaml", "--out", experiment / "out"), "thesis.tex", "--out")
        assert (experiment / "out" / "thesis.tex").read_text() == "mine"

    def test_a_config_that_is_none(self, experiment: Path):
        refused(segkd("compare", experiment / "tiny.yaml", "camvid_plane"), "camvid_plane", "camvid_plain")

    def test_only_overrides(self):
        refused(segkd("compare", "seed=1"), "segkd compare takes at least one CONFIG")

    def test_a_run_without_metrics(self, compared: Path, experiment: Path):
        run = experiment / "runs" / "bare"
        write(run / "config.yaml", (compared / "out" / "tiny_seed0" / "config.yaml").read_text())
        refused(segkd("compare", "--report-only", run), "bare is not finished")
        write(run / "result.json", "{}")
        refused(segkd("compare", "--report-only", run), "result.json has no 'student'")

    def test_a_folder_without_runs(self, tmp_path: Path):
        refused(segkd("compare", "--report-only", tmp_path), "holds no finished run")
