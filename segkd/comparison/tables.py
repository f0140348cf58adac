"""The tables of a report, from the runs of each method: the same for Markdown and HTML."""

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student_t

from segkd.comparison.records import Method, differing_keys, number, records_of
from segkd.training import results
from segkd.training.measure import Measure

LEVEL = 0.95
"""Of the confidence intervals."""


@dataclass(frozen=True)
class Difference:
    """A mean difference and its confidence interval; ``low`` and ``high`` are None where there is one pair."""

    mean: float
    low: float | None
    high: float | None

    @property
    def is_clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Return mean and standard deviation (of a sample, n - 1); None for the deviation of one value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def paired_difference(values: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Return the mean of ``values - baseline`` and its Student-t interval over the pairs.

    Pairs that share a seed share the student's first weights and the order of the images, so that what a seed
    changes for both falls out of the difference. Of few pairs the interval is wide: with 3 it is the mean and 2.5 times
    the standard deviation of the differences either way. It supposes that the differences are normal, and is not
    corrected for how many methods are compared.
    """
    mean, std = mean_std([a - b for a, b in zip(values, baseline, strict=True)])
    if std is None:
        return Difference(mean, None, None)
    half = float(student_t.ppf((1 + LEVEL) / 2, len(values) - 1)) * std / len(values) ** 0.5
    return Difference(mean, mean - half, mean + half)


@dataclass(frozen=True)
class Table:
    """A table: of its columns all but the first hold numbers, unless all are text; the note lies below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    text: bool = False
    strong: set[tuple[int, int]] = field(default_factory=set)
    """Places (row, column) that stand out."""


def measures_of(method: Method) -> list[Measure]:
    """Return the measures that a report shows: the score first, and those of the whole split beside it."""
    result = method.first.result
    return [measure for measure in results.measures_of(result) if not measure.of_classes][:3]


def result_table(methods: Sequence[Method], baseline: Method) -> Table:
    """Return what each method reached: mean and deviation over its seeds, and the difference to the baseline."""
    measures = measures_of(baseline)
    score = measures[0]
    rows, strong = [], set()
    for label, teacher in _teachers(methods):
        first, *rest = [measure.shown(teacher[measure.key]) for measure in measures]
        rows.append([label, "", first, "", *rest, ""])
    for method in methods:
        difference = None if method is baseline else difference_of(method, baseline, score)
        if difference is not None and difference.is_clear:
            strong.add((len(rows), 3))
        records = method.records.values()
        first, *rest = [spread([record.value(each.key) for record in records], each) for each in measures]
        last = spread([record.result["last"][score.key] for record in records], score)
        to_baseline = "" if method is baseline else interval(difference, score)
        rows.append([method.name, str(len(method.records)), first, to_baseline, *rest, last])
    label, *others = [measure.heading for measure in measures]
    header = ["method", "seeds", label, f"{label} to {baseline.name}", *others, f"{label}, last step"]
    note = (
        f"{_in(score)}ean ± standard deviation over the seeds, of the students that were saved: those of each run's "
        f"best validation. {label} to {baseline.name}: mean paired difference, same seed against same seed, and its "
        f"{LEVEL:.0%} confidence interval (Student's t), bold where that excludes zero; intervals are not corrected "
        "for how many methods are compared."
    )
    return Table("What was reached", header, rows, note, strong=strong)


def cost_table(methods: Sequence[Method], baseline: Method) -> Table:
    """Return what each method cost."""
    reference = seconds_per_step(baseline)
    rows = []
    for method in methods:
        peaks: list[Any] = [record.result.get("peak_memory") for record in method.records.values()]
        memory = "-" if None in peaks else f"{max(peaks) / 2**20:.0f}"
        seconds = seconds_per_step(method)
        steps = {record.config.trainer.max_steps for record in method.records.values()}
        figures = f"{seconds:.3f}", f"{seconds / reference:.2f}", f"{method.minutes:.2f}"
        rows.append([method.name, ", ".join(map(str, sorted(steps))), *figures, memory])
    gpu = baseline.first.result["environment"].get("gpu")
    where = "on the GPU" if gpu else "in main memory by the training process, its libraries included"
    note = (
        "Seconds: median over the parts between two validations, of all seeds; validation is not counted. Minutes: of "
        f"training, mean over the seeds. Memory: the most that was held {where}, of all seeds."
    )
    header = ["method", "steps", "seconds a step", f"times {baseline.name}", "minutes", "peak memory, MiB"]
    return Table("What it cost", header, rows, note)


def seconds_per_step(method: Method) -> float:
    """Return the median, over the parts between two validations and over the seeds, of the seconds of a step."""
    taken = []
    for record in method.records.values():
        points = [(0, 0.0), *[(step, seconds) for step, seconds, _ in record.curve]]
        taken += [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points) if b[0] > a[0]]
    return statistics.median(taken)


def seed_table(methods: Sequence[Method], baseline: Method) -> Table:
    """Return the score of each run: a row for each seed."""
    score = measures_of(baseline)[0]
    seeds = sorted({seed for method in methods for seed in method.records})
    rows = []
    for seed in seeds:
        records = [method.records.get(seed) for method in methods]
        rows.append([str(seed), *["" if each is None else score.shown(each.value(score.key)) for each in records]])
    return Table(f"{score.heading} of each run", ["seed", *[method.name for method in methods]], rows)


def class_table(methods: Sequence[Method], baseline: Method) -> Table | None:
    """Return the score of each class, mean over the seeds; the best method of each row stands out. None without any."""
    measure = next((each for each in results.measures_of(baseline.first.result) if each.of_classes), None)
    if measure is None:
        return None
    key, best = measure.key, max if measure.higher_is_better else min
    teachers = _teachers(methods)
    rows, strong = [], set()
    for index, name in enumerate(baseline.first.result["classes"]):
        values = [
            mean_std([number(record.result["student"][key][index]) for record in method.records.values()])[0]
            for method in methods
        ]
        known = [value for value in values if not math.isnan(value)]
        if len(known) > 1 and known.count(best(known)) == 1:
            strong.add((index, 1 + len(teachers) + values.index(best(known))))
        of_teachers = [measure.shown(teacher[key][index]) for _, teacher in teachers]
        rows.append([name, *of_teachers, *map(measure.shown, values)])
    header = ["class", *[label for label, _ in teachers], *[method.name for method in methods]]
    note = f"{_in(measure)}ean over the seeds; bold: the best student."
    return Table(f"{measure.heading} of each class", header, rows, note, strong=strong)


def config_table(methods: Sequence[Method]) -> Table:
    """Return every key in which the configs differ."""
    differing = differing_keys(methods).items()
    rows = [[key, *_written(values)] for key, values in differing if any(value not in (None, "") for value in values)]
    note = "All else is the same: each run's config.yaml has it. Empty: the key is not there, or null."
    return Table("Where the configs differ", ["key", *[method.name for method in methods]], rows, note, text=True)


def environment_table(methods: Sequence[Method]) -> Table:
    """Return versions and hardware; where runs differ, each value with the runs that had it."""
    found: dict[str, dict[str, list[str]]] = {}
    for record in records_of(methods):
        for key, value in (record.result["environment"] | {"precision": record.config.trainer.precision}).items():
            written = "none" if value is None else str(value)
            found.setdefault(key, {}).setdefault(written, []).append(record.config.name)
    rows = []
    for key, values in found.items():
        with_runs = [f"{value} ({', '.join(names)})" for value, names in values.items()]
        rows.append([key, "; ".join(with_runs if len(values) > 1 else values)])
    return Table("Versions and hardware", ["what", "which"], rows, text=True)


def remarks_on(methods: Sequence[Method], baseline: Method, budget: str = "steps") -> list[str]:
    """Return what makes the comparison weaker than it looks; the budget is what was asked for."""
    remarks = []
    counts = {method.name: len(method.records) for method in methods}
    if min(counts.values()) < 2:
        few = ", ".join(name for name, count in counts.items() if count < 2)
        remarks.append(f"One seed only: {few}. A single run says little about a difference below a point or two.")
    if len({tuple(method.records) for method in methods}) > 1:
        remarks.append("Not every method has the same seeds; differences are taken over the seeds that both have.")
    steps = {record.config.trainer.max_steps for record in records_of(methods)}
    if len(steps) > 1 and "minutes" not in budget:
        minutes = ", ".join(f"{method.name} {method.minutes:.1f}" for method in methods)
        remarks.append(f"The runs do not have the same number of steps; minutes of training: {minutes}")
    if baseline.distils:
        remarks.append(f"No run is without distillation: differences are to {baseline.name}.")
    for key in ("cpu", "gpu", "torch", "segkd", "processes", "threads"):
        values = {str(record.result["environment"].get(key)) for record in records_of(methods)}
        if len(values) > 1:
            remarks.append(f"The runs were not made alike: {key} is {' and '.join(sorted(values))}.")
    return remarks


def difference_of(method: Method, baseline: Method, measure: Measure) -> Difference | None:
    """Return the paired difference over the seeds that both have; None where there is no such seed."""
    seeds = [seed for seed in method.records if seed in baseline.records]
    values, others = ([each.records[seed].value(measure.key) for seed in seeds] for each in (method, baseline))
    return paired_difference(values, others) if seeds else None


def shortened(text: str, parts: int = 1) -> str:
    """Return an absolute path by its last parts alone: where a file lay on one machine says nothing on another."""
    return f".../{'/'.join(Path(text).parts[-parts:])}" if Path(text).is_absolute() else text


def spread(values: Sequence[float | None], measure: Measure) -> str:
    """Return mean and standard deviation as a person reads them."""
    mean, std = mean_std(list(map(number, values)))
    return measure.shown(mean) if std is None or math.isnan(mean) else f"{measure.shown(mean)} ± {measure.shown(std)}"


def interval(difference: Difference | None, measure: Measure) -> str:
    """Return a difference, in points where the measure is a share, with its interval."""
    if difference is None or math.isnan(difference.mean):
        return "-"
    mean = measure.shown(difference.mean, "+")
    if difference.low is None or difference.high is None:
        return mean
    return f"{mean} [{measure.shown(difference.low, '+')}, {measure.shown(difference.high, '+')}]"


def _in(measure: Measure) -> str:
    """Return how a note begins: in what the values are."""
    return "In per cent, m" if measure.unit == "%" else "M"


def _teachers(methods: Sequence[Method]) -> list[tuple[str, dict[str, Any]]]:
    """The teachers that were measured, each once, with the names of those it taught where there are several."""
    found: list[tuple[str, list[str], dict[str, Any]]] = []
    for method in methods:
        for name, teacher in results.models_of(method.first.result).items():
            same = [names for _, names, other in found if other == teacher]
            if same and name != "student":
                same[0].append(method.name)
            elif name != "student":
                found.append((name, [method.name], teacher))
    is_alone = len({name for name, _, _ in found}) == len(found)
    return [(name if is_alone else f"{name} of {', '.join(names)}", teacher) for name, names, teacher in found]


def _written(values: Sequence[Any]) -> list[str]:
    """The values of one key, no two that differ alike: of paths as many parts as that takes."""
    paths = {value for value in values if isinstance(value, str)}
    parts = next((n for n in range(1, 10) if len({shortened(path, n) for path in paths}) == len(paths)), 10)
    return [shortened(value, parts) if isinstance(value, str) else _value(value) for value in values]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value).removesuffix(".0")
