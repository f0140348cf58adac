"""A comparison from its configs to its report."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from segkd.common.progress import say
from segkd.comparison.cluster import cluster
from segkd.comparison.plan import load_methods, make_jobs, matched_steps, parse_budget, plainest, teachers_of
from segkd.comparison.records import Record, find_baseline, group, read_records
from segkd.comparison.report import write_report
from segkd.comparison.same_time import longer_baselines
from segkd.comparison.work import MARKER, Workplace, agree_on_steps, read_agreed, train_jobs, train_teachers
from segkd.errors import SegkdError, check_count
from segkd.signals import interruptible
from segkd.training.run import Run
from segkd.training.schema import Config


@dataclass(frozen=True)
class Outcome:
    """The outcome of a comparison.

    Attributes:
        directory: where ``report.md`` and ``report.html`` are, unless no run is finished.
        results: the finished runs' results by method and seed, see `segkd.training.train.train`.
        failed: the names of the runs that failed; the report is on the others.
    """

    directory: Path
    results: dict[str, dict[int, dict[str, Any]]] = field(repr=False)
    failed: list[str]


def compare(
    names: Sequence[str | Config],
    overrides: Sequence[str],
    console: Console,
    *,
    seeds: int,
    budget: str,
    out: Path | None,
    baseline: str | None = None,
    same_time: bool = False,
    pooled: bool = False,
    pictures: int = 3,
    on: str | None = None,
) -> Outcome:
    """Train each config with each seed under one budget, as far as that is not done yet, and write the report.

    Several processes may do this at once with one ``out``: each run is trained by one of them, and taken over by
    another if that one ends before it is finished. All wait for all runs, and write the report of them.

    Args:
        names: configs, by name (see `segkd.training.config.find_config`) or loaded.
        overrides: ``key.path=value`` changes to all configs that are given by name.
        console: where progress is shown; for the other arguments see `segkd.api.compare`.

    Raises:
        SegkdError: the configs cannot be compared, or `out` holds something else; nothing is trained then.
        Interrupted: SIGINT, SIGTERM or SIGHUP came; the run that was trained has finished its step.
    """
    if not names:
        raise SegkdError("segkd compare takes at least one CONFIG (see: segkd configs), or --report-only RUN...")
    check_count("seeds", seeds, 1)
    check_count("pictures", pictures, 0)
    asked = parse_budget(budget)
    methods = load_methods(names, overrides, out)
    if baseline is not None and baseline not in [config.name for config in methods]:
        raise SegkdError(f"--baseline {baseline!r} is none of {', '.join(config.name for config in methods)}")
    if same_time and asked.unit == "minutes":
        raise SegkdError("--same-time goes with a budget of steps: with --budget minutes all have the same time")
    if same_time and len(methods) < 2:
        raise SegkdError("--same-time trains the baseline for as long as other configs take: name more than one CONFIG")
    steps = matched_steps(methods, asked)
    if steps is not None:
        make_jobs(methods, seeds, steps)  # what does not fit is known before anything is written
    teachers = teachers_of(methods)
    asking = [*methods, *(job.config for job in teachers)]
    named = [name.name if isinstance(name, Config) else name for name in names]
    flags = [] if baseline is None else ["--baseline", baseline]
    flags += [flag for flag, is_set in (("--same-time", same_time), ("--pooled", pooled)) if is_set]
    command = shlex.join(["segkd", "compare", *named, "--seeds", f"{seeds}", "--budget", budget, *flags, *overrides])
    with (
        interruptible("the same command goes on where this stopped"),
        cluster(on, asking) as there,
    ):
        place = Workplace(Path(methods[0].runs))
        if steps is None and "steps" not in place.agreed():  # timing a stored teacher needs its weights
            train_teachers(place, teachers, console, there)
        steps = agree_on_steps(place, methods, asked, steps, command, console, there)
        with place.lock("budget"):
            place.agree({**place.agreed(), "pooled": pooled})
        jobs = make_jobs(methods, seeds, steps)
        train_teachers(place, teachers_of(job.config for job in jobs if not job.run.finished), console, there)
        failed = train_jobs(place, jobs, console, there)
        if same_time:  # timed now: stores are filled, and other processes of this comparison are no longer training
            own = baseline or plainest({config.name: config for config in methods})
            trained = [config for config in methods if config.name not in {job.method for job in failed}]
            if own in [config.name for config in trained]:
                longer = longer_baselines(place, trained, steps, own, seeds, console, there)
                steps |= {config.name: config.trainer.max_steps for config in longer}
                more, total = make_jobs(longer, seeds, steps), len(jobs) + seeds * len(longer)
                titles = [f"run {n} of {total}, {job.config.name}" for n, job in enumerate(more, len(jobs) + 1)]
                failed += train_jobs(place, more, console, there, titles)
                jobs += more
            else:
                say(console, f"nothing is trained for the same time: a run of {own} failed")
        with place.lock("report"):
            # Looked for under the lock: so the report written last is on all that is finished.
            finished = [job for job in jobs if job.run.finished]
            results = {}
            if baseline is not None and baseline not in [job.method for job in finished]:
                say(console, f"no report yet: no run of {baseline} is finished")
            elif finished:
                records = read_records([job.run.directory for job in finished], console)
                results = _report(records, place, console, baseline, pictures, len(jobs) - len(finished))
        if failed:
            say(console, f"failed: {', '.join(job.config.name for job in failed)}")
        return Outcome(place.directory, results, [job.config.name for job in failed])


def report_only(
    paths: Sequence[str],
    console: Console,
    *,
    out: Path | None,
    baseline: str | None = None,
    pooled: bool = False,
    pictures: int = 3,
) -> Outcome:
    """Write the report of finished runs: directories, or folders of them.

    By default it goes into the comparison that the first path names, else into ``comparison`` beside the first run. If
    the comparison was made with a pooled scatter, the report has that too.
    """
    check_count("pictures", pictures, 0)
    records = read_records([Path(path) for path in paths], console)
    find_baseline(group(records), baseline)  # what does not go together is known before anything is written
    place = Workplace(out or _beside(Path(paths[0])))
    with place.lock("report"):
        if "budget" not in place.agreed():
            place.agree({"runs": [str(record.run.directory) for record in records]})
        runs = [Run(file.parent) for path in paths for file in Path(path).glob("*/config.yaml")]
        results = _report(records, place, console, baseline, pictures, sum(not run.finished for run in runs), pooled)
    return Outcome(place.directory, results, [])


def _report(
    records: Sequence[Record],
    place: Workplace,
    console: Console,
    baseline: str | None,
    pictures: int,
    open_runs: int,
    pooled: bool = False,
) -> dict[str, dict[int, dict[str, Any]]]:
    """Write the report and return each method's results by their seeds."""
    methods = group(records)
    # What was agreed on in a comparison holds of its own runs alone, wherever the report of them goes.
    homes = {record.run.directory.parent.resolve() for record in records}
    agreed = read_agreed(homes.pop() / MARKER) if len(homes) == 1 else {}
    if "steps" not in agreed.get("same_time", {}):  # its timing is not done
        agreed.pop("same_time", None)
    agreed["pooled"] = pooled or agreed.get("pooled", False)
    known = agreed.get("same_time", {}).get("baseline")
    if baseline is None and known in [method.name for method in methods]:
        baseline = known
    write_report(methods, find_baseline(methods, baseline), place.directory, console, agreed, pictures, open_runs)
    return {method.name: {seed: each.result for seed, each in method.records.items()} for method in methods}


def _beside(path: Path) -> Path:
    """Return where a report goes by default: into the comparison, else ``comparison`` among the runs."""
    if (path / MARKER).is_file():
        return path
    return (path.parent if Run(path).config_file.is_file() else path) / "comparison"
