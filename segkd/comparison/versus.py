"""What each method is compared to: the baseline's runs of the same steps, and those of the same time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segkd.comparison.differences import Difference, Scatter, paired_differences, pooled_scatter
from segkd.comparison.records import Method
from segkd.training.measure import Measure


@dataclass(frozen=True)
class Versus:
    """One way to compare, a column of the report.

    Attributes:
        heading: of the column.
        baselines: by method name the baseline's runs that it is compared to.
        pooled: the methods whose scatter is pooled; empty: each difference has its own.
    """

    heading: str
    baselines: Mapping[str, Method]
    pooled: Sequence[Method] = ()

    def differences(self, methods: Sequence[Method], measure: Measure) -> dict[str, Difference]:
        """Return each method's paired difference over the seeds that both have, see `paired_differences`."""
        pairs = {}
        for method in methods:
            if (baseline := self.baselines.get(method.name)) is not None:
                both = [
                    (one, baseline.records[seed]) for seed, one in method.records.items() if seed in baseline.records
                ]
                pairs[method.name] = [(one.value(measure.key), other.value(measure.key)) for one, other in both]
        return paired_differences(pairs, self.scatter(measure))

    def scatter(self, measure: Measure) -> Scatter | None:
        """Return the pooled scatter, see `pooled_scatter`; None where nothing is pooled, or there are too few runs."""
        values = [{seed: one.value(measure.key) for seed, one in method.records.items()} for method in self.pooled]
        return pooled_scatter(values) if values else None


def longer_name(baseline: str, steps: int) -> str:
    """Return the name of a baseline that is trained for as long as a more expensive method takes."""
    return f"{baseline}_{steps}steps"


def longer_runs(methods: Sequence[Method], same_time: Mapping[str, Any]) -> dict[int, Method]:
    """Return the baseline's runs of other lengths by their number of steps, as far as they are there.

    Args:
        methods: all that were trained.
        same_time: what was agreed, see `segkd.comparison.same_time.longer_baselines`; empty where nothing was.
    """
    named = {method.name: method for method in methods}
    counts = sorted({count for pair in same_time.get("steps", {}).values() for count in pair})
    names = {count: longer_name(same_time["baseline"], count) for count in counts}
    return {count: named[name] for count, name in names.items() if name in named}


def ways_to_compare(
    methods: Sequence[Method], baseline: Method, same_time: Mapping[str, Any] | None = None, pooled: bool = False
) -> list[Versus]:
    """Return the ways to compare: same steps, and if it was agreed with this baseline same time, in full and shared.

    The last two are one where no method fills a store or fits a head.

    Args:
        methods: all that were trained.
        baseline: the one that the others are compared to.
        same_time: what was agreed, see `longer_runs`.
        pooled: whether all methods have one scatter.
    """
    scattered = tuple(methods) if pooled else ()
    same_time = same_time if same_time and same_time["baseline"] == baseline.name else {}
    longer = longer_runs(methods, same_time)
    left_out = {baseline.name, *(method.name for method in longer.values())}
    others = [method for method in methods if method.name not in left_out]
    found = [Versus("same steps", {method.name: baseline for method in others}, scattered)]
    if not same_time:
        return found
    own, counts = baseline.first.config.trainer.max_steps, same_time["steps"]
    known = {own: baseline, **longer}
    full, shared = (
        {
            method.name: known[counts[method.name][place]]
            for method in others
            if method.name in counts and counts[method.name][place] in known
        }
        for place in (0, 1)
    )
    if not full:
        return found
    if not any(same_time[what].get(method.name) for what in ("filling", "fitting") for method in others):
        return [*found, Versus("same time", full, scattered)]
    return [
        *found,
        Versus("same time, in full", full, scattered),
        Versus("same time, shared", shared, scattered),
    ]
