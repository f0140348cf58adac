"""Training the baseline for as long as each method takes: how many steps that is, agreed on once."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Console

from segkd.common.progress import say, shown
from segkd.comparison.cluster import Cluster, RayTask
from segkd.comparison.plan import Job, make_jobs
from segkd.comparison.timing import has_charges, shared
from segkd.comparison.versus import longer_name
from segkd.comparison.work import Workplace, run_timing
from segkd.errors import SegkdError
from segkd.training.schema import Config
from segkd.training.stages import of_length

ROUNDS = (3, 7)
"""How often each method is timed, at least and at most, all of them in turn: see `rounds_of`."""
CLOSE = 1.05
"""Numbers of steps within this factor are trained as one, the larger: in the baseline's favour."""
SAME = 1.02
"""A method that costs less than this factor times the baseline is compared to the baseline of the same steps."""


def longer_baselines(
    place: Workplace,
    methods: Sequence[Config],
    steps: Mapping[str, int],
    baseline: str,
    seeds: int,
    console: Console,
    cluster: Cluster | None = None,
) -> list[Config]:
    """Return the baseline's configs for as many steps as each method's time buys, the fewest first.

    All processes that share the directory get the same answer. The first one times some steps of each method, after
    filling its stores; later processes and commands find the result in ``comparison.json``, and a complete round of
    timing is not repeated. The teachers must be trained.

    Args:
        place: the comparison's directory. Its ``comparison.json`` gets, under ``same_time``, ``baseline``, and by
            method: ``times``, how many of the baseline's steps one of its steps costs; ``seconds_per_step``;
            ``filling`` and ``shared``, seconds of filling stores in full and divided by those who read them;
            ``fitting``, seconds of fitting auxiliary heads; ``seeds``, how many shared them; ``steps``, the baseline's
            for the time in full and for the time that shares fillings.
        methods: the configs that are compared.
        steps: how many each trains, by name.
        baseline: the name of the one that the others are compared to.
        seeds: how many each is trained with.
        console: where progress is shown.
        cluster: where methods are timed, all on one machine of it; None: here.

    Raises:
        SegkdError: the directory has another baseline, or a method cannot be timed.
    """
    agreed = _agree(place, make_jobs(methods, 1, dict(steps)), baseline, seeds, console, cluster)["steps"]
    config = next(config for config in methods if config.name == baseline)
    counts = sorted({n for config in methods for n in agreed.get(config.name, ())} - {steps[baseline]})
    return [of_length(config, n).model_copy(update={"name": longer_name(baseline, n)}) for n in counts]


def _agree(
    place: Workplace, jobs: Sequence[Job], baseline: str, seeds: int, console: Console, cluster: Cluster | None
) -> dict[str, Any]:
    with place.acquired("same_time", console, "times the methods"):
        agreed: dict[str, Any] = place.agreed().get("same_time", {})
        if agreed.get("baseline", baseline) != baseline:
            raise SegkdError(
                f"{place.directory} holds a comparison in the time of the baseline {agreed['baseline']}, not "
                f"{baseline}: choose another --out"
            )
        own = next(job for job in jobs if job.method == baseline)
        new = [job for job in jobs if job is not own and job.method not in agreed.get("steps", {})]
        if new or not agreed:
            if cluster is None:
                found = _taken([own, *new], seeds, place, console)
            else:
                time_all = partial(_taken, [own, *new], seeds, place)
                (found,) = cluster.run([RayTask("timing", own.config, time_all, place.log("timing"))], console)
            agreed.pop("rounds", None)
            agreed |= {key: {**agreed.get(key, {}), **value} for key, value in found.items()}
            # What was agreed before stands: its runs may be there.
            agreed |= {"baseline": baseline, "steps": _steps(agreed, baseline, own.config.trainer.max_steps)}
            with place.lock("budget"):
                place.agree({**place.agreed(), "same_time": agreed})
    return agreed


def rounds_of(methods: int) -> int:
    """Return how often each of so many methods is timed: more often if they are few, as a machine's speed varies."""
    least, most = ROUNDS
    return max(least, min(most, 21 // methods))


def merged(counts: Iterable[float], own: int, taken: Iterable[int] = ()) -> dict[float, int]:
    """Return for each number of steps the one that is trained: none is below it, except the baseline's own.

    Args:
        counts: numbers of steps that methods' time buys.
        own: how many steps the baseline has anyway.
        taken: numbers that are trained already.
    """
    found: dict[float, int] = {}
    chosen = sorted(taken)
    for count in sorted(counts, reverse=True):
        near = [each for each in chosen if count <= each <= CLOSE * count]
        if count < SAME * own:
            found[count] = own
        elif near:
            found[count] = near[0]
        else:
            found[count] = math.ceil(count)
            chosen = sorted([*chosen, found[count]])
    return found


def _taken(jobs: Sequence[Job], seeds: int, place: Workplace, console: Console) -> dict[str, dict[str, float]]:
    """Fill the jobs' stores and time the steps of all in turn, the first of which is the baseline; return the costs."""
    charges: dict[str, dict[str, Any]] = {}
    for job in jobs:
        charges[job.method] = {"fitting": 0.0, "views": 0, "stores": []}
        if has_charges(job.config):
            file = place.written(job.config).with_suffix(".json")
            run_timing(place, job.config, "charges", str(seeds), str(file), console=console)
            charges[job.method] = json.loads(file.read_text())
    first, names = jobs[0].method, [job.method for job in jobs]
    rounds: list[dict[str, tuple[float, float]]] = place.agreed().get("same_time", {}).get("rounds", [])
    rounds = rounds if all(list(each) == names for each in rounds) else []
    count = rounds_of(len(names))
    for number in range(len(rounds) + 1, count + 1):
        say(console, f"a few steps of each method are timed: {number} of {count}")
        found: dict[str, tuple[float, float]] = {}
        for job in shown(jobs, len(jobs), "timed", console):
            too = ["views"] if charges[job.method]["stores"] else []
            printed = run_timing(place, job.config, *too).split()
            found[job.method] = float(printed[0]), float(printed[1]) if too else 0.0
        rounds.append(found)
        with place.lock("budget"):
            agreed = place.agreed()
            place.agree({**agreed, "same_time": {**agreed.get("same_time", {}), "rounds": rounds}})
    second = statistics.median(each[first][0] for each in rounds)
    # Relative to the baseline's step in the same round: a ratio that hardly changes when the machine is busy.
    steps, views = (
        {name: statistics.median(each[name][what] / each[first][0] for each in rounds) for name in names}
        for what in (0, 1)
    )
    filling = {name: charges[name]["views"] * views[name] * second for name in names}
    alone = {name: sum(store["alone"] for store in charges[name]["stores"]) for name in names}
    part = {name: seconds / alone[name] if alone[name] else 0.0 for name, seconds in shared(charges).items()}
    return {
        "times": steps,
        "seconds_per_step": {name: steps[name] * second for name in names},
        "filling": filling,
        "shared": {name: filling[name] * part[name] for name in names},
        "fitting": {name: charges[name]["fitting"] for name in names},
        "seeds": dict.fromkeys(names, seeds),
    }


def _steps(found: Mapping[str, Any], baseline: str, own: int) -> dict[str, list[int]]:
    """Return, by method, the baseline's steps for its time in full and for its time with fillings shared."""
    second, before = found["seconds_per_step"][baseline], found.get("steps", {})
    bought = {
        (name, what): own * times + (found["fitting"][name] + found[what][name]) / second
        for name, times in found["times"].items()
        if name != baseline and name not in before
        for what in ("filling", "shared")
    }
    steps = merged(bought.values(), own, {count for pair in before.values() for count in pair})
    names = dict.fromkeys(name for name, _ in bought)
    return {**before, **{name: [steps[bought[name, what]] for what in ("filling", "shared")] for name in names}}
