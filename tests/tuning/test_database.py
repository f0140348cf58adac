"""A study in a database, which has trials of other folders too."""

import shutil
from pathlib import Path

from experiments import refused, segkd
from tuning.conftest import Pretended

RATE = "optimizer.lr=0.001..0.1"


def power_cut(config: object) -> float:
    raise RuntimeError("the power went")


def test_a_trial_of_another_folder_is_not_waited_for_in_silence(experiment: Path, pretended: Pretended):
    url, whole = f"sqlite:///{experiment}/studies.db", pretended.reaches
    arguments = ["tiny.yaml", RATE, "--hold-out", 0.4, "--storage", url, "--trials"]
    pretended.reaches = power_cut
    assert segkd("tune", *arguments, 1).status == 1
    pretended.reaches = whole
    shutil.rmtree(experiment / "runs")
    told = "trial_0 began in another folder, and can go on there alone; with more --trials others begin here"
    refused(segkd("tune", *arguments, 1), f"no trial is finished yet: {told}")
    assert told in segkd("tune", *arguments, 2).out


def test_a_databases_password_is_not_shown(experiment: Path):
    url = "postgres://me:se:c@ret@localhost/studies"
    outcome = segkd("tune", "tiny.yaml", RATE, "--hold-out", 0.4, "--storage", url)
    refused(outcome, "the study postgres://me:***@localhost/studies cannot be opened")
