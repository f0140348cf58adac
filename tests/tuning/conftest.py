"""Searches whose runs are pretended: what they reach is a function of their values, known at each validation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from experiments import make_experiment

from segkd.comparison import work
from segkd.comparison.plan import Job
from segkd.training.config import load_config
from segkd.training.schema import Config

Stop = Callable[[], bool]


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = make_experiment(tmp_path)
    monkeypatch.chdir(folder)
    return folder


class Pretended:
    """Takes the place of `run_job`: writes what a run writes, and asks after each validation whether to stop.

    Attributes:
        reaches: the score of a config at its end; an error is a run that fails.
        configs: those of the runs, in their order.
    """

    def __init__(self) -> None:
        self.reaches: Callable[[Config], float] = lambda config: 1 - config.optimizer.lr
        self.configs: list[Config] = []

    def __call__(self, place: work.Workplace, job: Job, console: Any, stop: Stop | None = None) -> bool:
        config = load_config(str(place.written(job.config)))
        self.configs.append(config)
        if not job.run.config_file.is_file():
            job.run.create(config)
        try:
            score = self.reaches(config)
        except ArithmeticError:
            return False
        every, lines = config.validation.every or 1, ["step,val/miou"]
        for step in range(every, config.trainer.max_steps + 1, every):
            lines.append(f"{step},{score * step / config.trainer.max_steps}")
            job.run.metrics.write_text("\n".join(lines) + "\n")
            if stop is not None and stop():
                return False
        job.run.finish({"student": {"miou": score, "step": config.trainer.max_steps}})
        return True


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Pretended:
    made = Pretended()
    monkeypatch.setattr(work, "run_job", made)
    return made
