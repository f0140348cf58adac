"""A search from its config and keys to the best values: trials one after the other, and what is written of them."""

import importlib.util
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from segkd import signals
from segkd.common.progress import say
from segkd.comparison import work
from segkd.comparison.cluster import Cluster, RayTask, cluster
from segkd.comparison.plan import Job, check_unchanged, teachers_of
from segkd.data.hold_out import hold_out
from segkd.errors import SegkdError, check_count, is_number
from segkd.training.config import find_config, whole
from segkd.training.layers import changes_of, overlay
from segkd.training.schema import Config
from segkd.training.tasks import task_of
from segkd.tuning.report import check_best, trial_rows, write_report
from segkd.tuning.search import Search, check_database
from segkd.tuning.space import Knob, check_space, short_names, shown, with_values

if TYPE_CHECKING:
    from optuna import Trial

VALIDATIONS = 5
"""So many times at least a trial is measured, and may be pruned."""
FAILURES = 3
"""After so many failed trials in a row a process gives up."""
_OTHER = "give another name=..."


@dataclass(frozen=True)
class Tuned:
    """What a search came to.

    Attributes:
        values: the best, by key.
        score: what they reached on the part of the training split that is held out.
        trials: what ``trials.csv`` has, the best first.
        directory: where that is, with ``tuning.png`` and the trials' runs.
        config: ``best.yaml``, which `segkd.train` takes.
    """

    values: dict[str, Any]
    score: float
    trials: list[dict[str, Any]]
    directory: Path
    config: Path


def tune(
    config: Config,
    knobs: Sequence[Knob],
    console: Console,
    *,
    base: Mapping[str, Any],
    trials: int = 20,
    minutes: float | None = None,
    share: float = 0.2,
    seed: int | None = None,
    storage: str | None = None,
    on: str | None = None,
) -> Tuned:
    """Search for the values of a config's keys that help most, see `segkd.api.tune`; for ``base`` see `base_of`."""
    if importlib.util.find_spec("optuna") is None:
        raise SegkdError('segkd tune needs Optuna: pip install "segkd[tune]"')
    if not knobs:
        raise SegkdError("segkd tune takes at least one KEY=A..B or KEY=A,B,C to search over")
    check_count("trials", trials, 1)
    if minutes is not None and not (is_number(minutes) and minutes > 0):
        raise SegkdError(f"minutes must be a number above 0, got {minutes!r}")
    place = Path(config.runs) / "tune" / config.name
    rest, held_out = hold_out(config.data.train_split, share)
    changes: dict[str, Any] = {"runs": str(place), "data.train_split": rest, "data.val_split": held_out}
    changes |= {} if seed is None else {"seed": seed}
    for name, block in config.trained_teachers().items():  # by `segkd train` as well
        changes[f"{config.teacher_key(name)}.overrides"] = {"runs": config.runs, **block.overrides}
    common = with_values(config, changes)
    ends, task = check_space(common, knobs, build=True), task_of(common)
    for split in (rest, held_out):  # neither is empty, and all of it is there
        task.dataset(split, augmented=False)
    teachers = teachers_of(ends, "give it another (teacher.overrides.name=...)")
    trained = [common, *(job.config for job in teachers)]
    with signals.interruptible("the same command goes on where this stopped"), cluster(on, trained) as there:
        if storage is not None:  # before the folder is made
            check_database(storage, common, knobs)
        search = Search(work.Workplace(place, ".locks", _OTHER), common, knobs, task.score, storage)
        check_best(search)
        work.train_teachers(search.place, teachers, console, there)
        with signals.held_back():
            end = math.inf if minutes is None else time.monotonic() + 60 * minutes
            how = partial(_spread, there) if there else _run_trials
            gives_up = how(search, console, trials, end)
            best = write_report(search, base, console)
    if gives_up:
        raise SegkdError(f"the last {FAILURES} trials failed, see above")
    away = ", ".join(search.away) if search.finished < trials else ""
    if away:
        away = f"{away} began in another folder, and can go on there alone; with more --trials others begin here"
    if best is None or best.value is None:
        raise SegkdError(f"no trial is finished yet: {away or 'the same command goes on, give it more --minutes'}")
    if away:
        say(console, away)
    return Tuned(search.values(best), best.value, trial_rows(search), place, place / "best.yaml")


def base_of(config: Config, name: str | None, overrides: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``best.yaml`` builds on: a config by its name with changes to it, or where that has none itself."""
    if name is None:
        return whole(config)
    base = {"base": str(find_config(name).resolve()), **changes_of(overrides)[-1].keys}
    # Teachers' configs that lie beside that config would be looked for beside this one.
    taught_by = config.trained_teachers().items()
    found = {f"{config.teacher_key(teacher)}.config": block.config for teacher, block in taught_by}
    return overlay(base, changes_of(found)[-1].keys)


def _run_trials(search: Search, console: Console, wanted: int, end: float, says_what_it_waits_for: bool = True) -> bool:
    """Run trials until enough are finished, the time is over or a signal came; return whether too many failed."""
    failures, told = 0, list[str]()

    def is_over() -> bool:
        return signals.asked() is not None or time.monotonic() >= end

    while failures < FAILURES and not is_over():
        with search.next(wanted) as (trial, elsewhere):
            if trial is not None:
                came_to = _run(search, trial, console, is_over, f"{search.finished} of {wanted} are finished")
                say(console, f"trial {trial.number}: {came_to}")
                failures = failures + 1 if came_to.startswith("failed") else 0
                continue
        if not elsewhere:
            return False
        if elsewhere != told and says_what_it_waits_for:
            say(console, f"waiting for what other processes run: {', '.join(elsewhere)}")
        told = elsewhere
        time.sleep(0.5)
    return failures == FAILURES


def _spread(cluster: Cluster, search: Search, console: Console, wanted: int, end: float) -> bool:
    """Do on a cluster what `_run_trials` does here: as many tasks as trials are wanted, each like one more process."""
    names = [f"trials_{number}" for number in range(wanted - search.finished)]
    do = partial(_take_part, search, wanted)
    tasks = [RayTask(name, search.config, do, search.place.log(name)) for name in names]
    return any(cluster.run(tasks, console, lambda gave_up: any(gave_up) or time.monotonic() >= end))


def _take_part(search: Search, wanted: int, console: Console) -> bool:
    with signals.held_back():
        return _run_trials(search, console, wanted, math.inf, says_what_it_waits_for=False)


def _run(search: Search, trial: "Trial", console: Console, is_over: Callable[[], bool], before: str) -> str:
    """Run a trial, to its end where nothing comes between, tell Optuna of it, and return what it came to."""
    from optuna.trial import TrialState

    score, number = search.score, trial.number
    values = {knob.key: knob.suggest(trial) for knob in search.knobs}
    names = short_names(list(values))
    say(console, f"trial {number}, {before}: " + ", ".join(f"{names[key]} {shown(v)}" for key, v in values.items()))
    try:
        config = with_values(search.config, {**values, "name": f"trial_{number}"})
    except SegkdError as error:  # of values that do not go together
        search.study.tell(trial, state=TrialState.FAIL)
        return f"failed: {error}"
    steps = config.trainer.max_steps
    every = min(config.validation.every or steps, max(steps // VALIDATIONS, 1))
    job = Job(config.name, with_values(config, {"validation.every": every}))
    check_unchanged(job, _OTHER)
    seen, is_pruned = {*search.trials[number].intermediate_values}, False

    def look() -> bool:
        nonlocal is_pruned
        for row in job.run.rows() if job.run.metrics.is_file() else ():
            step, value = int(row["step"]), float(row[f"val/{score.key}"])
            if step not in seen:
                seen.add(step)
                trial.report(value, step)
                say(console, f"trial {number}: step {step} of {steps}, {score.label} {score.shown(value)}")
                is_pruned = is_pruned or (step < steps and trial.should_prune())
        return is_pruned or is_over()

    # What a run itself says, class by class, would hide what the search does.
    is_finished = job.run.finished or work.run_job(search.place, job, Console(quiet=True), look)
    look()
    if is_finished and (reached := job.run.result()["student"][score.key]) is not None:
        search.study.tell(trial, reached)
        return f"finished, {score.label} {score.shown(reached)}"
    if is_over() and not is_finished and not is_pruned:
        return f"stopped at step {max(seen, default=0)}"
    search.study.tell(trial, state=TrialState.PRUNED if is_pruned else TrialState.FAIL)
    return f"pruned at step {max(seen)} of {steps}" if is_pruned else "failed"
