"""The tables of a report, from the runs of each method: the same for Markdown and HTML."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from segkd.comparison.differences import ALPHA, Difference, mean_std
from segkd.comparison.records import Method, number
from segkd.comparison.versus import Versus
from segkd.data.samples import spread as spread_over
from segkd.training import results
from segkd.training.measure import Measure

POINTS = 8
"""So many validations of a run stand in a report's table at most."""


@dataclass(frozen=True)
class Table:
    """A table of a report: columns after the first hold numbers unless ``text`` is set; the note stands below it."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""
    text: bool = False
    strong: set[tuple[int, int]] = field(default_factory=set)
    """Cells (row, column) that are bold."""


def measures_of(method: Method) -> list[Measure]:
    """Return the first three measures of the whole split, which a report shows: the score is the first."""
    result = method.first.result
    return [measure for measure in results.measures_of(result) if not measure.of_classes][:3]


def result_table(methods: Sequence[Method], baseline: Method, ways: Sequence[Versus]) -> Table:
    """Return what each method reached: mean and deviation over its seeds, and its differences to the baseline."""
    measures = measures_of(baseline)
    score, own = measures[0], baseline.first.config.trainer.max_steps
    found = [versus.differences(methods, score) for versus in ways]
    rows, strong = [], set()
    for label, teacher in _teachers(methods):
        first, *rest = [measure.shown(teacher[measure.key]) for measure in measures]
        rows.append([label, "", first, *[""] * len(ways), *rest, ""])
    for method in methods:
        records, cells = method.records.values(), []
        for place, (versus, differences) in enumerate(zip(ways, found, strict=True), 3):
            difference, cell = differences.get(method.name), ""
            if difference is not None:
                cell = interval(difference, score)
                steps = versus.baselines[method.name].first.config.trainer.max_steps
                cell += f" ({steps})" if place > 3 else ""
                if difference.is_clear:
                    strong.add((len(rows), place))
            cells.append(cell)
        first, *rest = [spread([record.value(each.key) for record in records], each) for each in measures]
        last = spread([record.result["last"][score.key] for record in records], score)
        rows.append([method.name, str(len(method.records)), first, *cells, *rest, last])
    label, *others = [measure.heading for measure in measures]
    headings = [f"{label} to {baseline.name}"]
    if len(ways) > 1:
        headings = [f"to {baseline.name}, {each.heading}" for each in ways]
    header = ["method", "seeds", label, *headings, *others, f"{label}, last step"]
    note = (
        f"{_in(score)}ean ± standard deviation over the seeds, of the students that were saved: those of each run's "
        f"best validation. To {baseline.name}: mean paired difference, same seed against same seed, and its "
        f"interval (Student's t). Bold: clear, by Holm's procedure, which corrects for how many methods are compared: "
        f"the chance that any difference of a column is called clear and is none is at most {ALPHA:.0%}. Each interval "
        f"is of the level at which that procedure tests the method, {1 - ALPHA:.0%} or more: it excludes zero exactly "
        "where the difference is bold."
    )
    if (scatter := ways[0].scatter(score)) is not None:
        note += (
            f" The scatter is pooled: a run lies {score.shown(scatter.std)} (standard deviation, {scatter.degrees} "
            "degrees of freedom) from the sum of what its method and its seed contribute, supposed to hold for "
            "each method alike."
        )
    if len(ways) > 1:
        note += (
            f" Same time: to {baseline.name} trained from its beginning for so many steps, in brackets, as the "
            f"method's time buys; a method that costs less than 2 % more is compared to the {own} steps."
        )
    if len(ways) > 2:
        note += (
            " In full: that time includes all that the method does beside its steps, filling the store of its teacher "
            "and fitting an auxiliary head; shared: each filling is divided by the runs here that read it. The "
            "teacher's own training is not charged."
        )
    return Table("What was reached", header, rows, note, strong=strong)


def cost_table(methods: Sequence[Method], baseline: Method, same_time: Mapping[str, Any] | None = None) -> Table:
    """Return what each method cost, and the timings by which the same time was counted, if it was."""
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
    if same_time and same_time["baseline"] == baseline.name:
        header += [f"timed, times {baseline.name}", "filling, s", "shared, s", "fitting, s"]
        for row in rows:
            parts = {"times": 2, "filling": 1, "shared": 1, "fitting": 1}
            taken = {key: same_time[key].get(row[0]) for key in parts if row[0] != baseline.name}
            row += [f"{value:.{places}f}" if (value := taken.get(key)) else "" for key, places in parts.items()]
        note += (
            " Timed: some steps of all methods in turn, several times, the median; filling a teacher's store in full "
            "and shared, and fitting an auxiliary head, in seconds of that machine. This is what the same time is "
            "counted by."
        )
    return Table("What it cost", header, rows, note)


def seconds_per_step(method: Method) -> float:
    """Return the median, over the parts between two validations and over the seeds, of the seconds of a step."""
    taken = []
    for record in method.records.values():
        points = [(0, 0.0), *[(step, seconds) for step, seconds, _ in record.curve]]
        taken += [(b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.pairwise(points) if b[0] > a[0]]
    return statistics.median(taken)


def seed_table(methods: Sequence[Method], baseline: Method, ways: Sequence[Versus]) -> Table:
    """Return the score of each run, and the p-values of each method's differences."""
    score = measures_of(baseline)[0]
    found = [versus.differences(methods, score) for versus in ways]
    seeds = sorted({seed for method in methods for seed in method.records})
    rows = []
    for method in methods:
        records = [method.records.get(seed) for seed in seeds]
        values = ["" if each is None else score.shown(each.value(score.key)) for each in records]
        tests = [each.get(method.name) for each in found]
        rows.append([method.name, *values, *["" if each is None else _chance(each.p) for each in tests]])
    headings = [f"p, {each.heading}" if len(ways) > 1 else "p" for each in ways]
    pooled = " with the scatter of all methods" if ways[0].scatter(score) is not None else ""
    note = (
        f"p: of the difference to {baseline.name}, by a paired t-test over the seeds{pooled}, corrected for the number "
        f"of methods by Holm's procedure: clear is what is not above {ALPHA}."
    )
    header = ["method", *[f"seed {seed}" for seed in seeds], *headings]
    return Table(f"{score.heading} of each run", header, rows, note)


def course_table(methods: Sequence[Method], baseline: Method) -> Table:
    """Return the score at validations during training, `POINTS` of the baseline's at most, mean over the seeds."""
    score = measures_of(baseline)[0]
    steps = spread_over([step for step, _, _ in baseline.first.curve], POINTS)
    rows = []
    for method in methods:
        courses = [{step: value for step, _, value in record.curve} for record in method.records.values()]
        reached = [[course[step] for course in courses if step in course] for step in steps]
        rows.append([method.name, *[score.shown(mean_std(values)[0]) if values else "" for values in reached]])
    note = (
        f"{_in(score)}ean over the seeds, of the students as they were after so many steps. Before the end the "
        "learning rate is still high: a run that ends there, with a schedule of its own, reaches more."
    )
    return Table(f"{score.heading} during training", ["method", *map(str, steps)], rows, note)


def class_table(methods: Sequence[Method], baseline: Method) -> Table | None:
    """Return the score of each class, mean over the seeds, each row's best method bold; None without such a measure."""
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


def spread(values: Sequence[float | None], measure: Measure) -> str:
    """Return mean and standard deviation as text."""
    mean, std = mean_std(list(map(number, values)))
    return measure.shown(mean) if std is None or math.isnan(mean) else f"{measure.shown(mean)} ± {measure.shown(std)}"


def interval(difference: Difference, measure: Measure) -> str:
    """Return a difference as text, in points where the measure is a fraction, with its interval."""
    if math.isnan(difference.mean):
        return "-"
    mean = measure.shown(difference.mean, "+")
    if difference.low is None or difference.high is None:
        return mean
    return f"{mean} [{measure.shown(difference.low, '+')}, {measure.shown(difference.high, '+')}]"


def _chance(p: float | None) -> str:
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _in(measure: Measure) -> str:
    """Return how a note begins, up to the ``m`` of ``mean``: with the unit if that is per cent."""
    return "In per cent, m" if measure.unit == "%" else "M"


def _teachers(methods: Sequence[Method]) -> list[tuple[str, dict[str, Any]]]:
    """Return the measured teachers, each once; if several have one name, with the names of those they taught."""
    found: list[tuple[str, list[str], dict[str, Any]]] = []
    for method in methods:
        for name, teacher in results.models_of(method.first.result).items():
            same = [names for _, names, other in found if _is_alike(other, teacher)]
            if same and name != "student":
                same[0].append(method.name)
            elif name != "student":
                found.append((name, [method.name], teacher))
    is_alone = len({name for name, _, _ in found}) == len(found)
    return [(name if is_alone else f"{name} of {', '.join(names)}", teacher) for name, names, teacher in found]


def _is_alike(one: Any, other: Any) -> bool:
    """Whether two models were measured as equal, but for the few pixels that another processor rounds otherwise."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_is_alike, one, other))
    return one == other or math.isclose(number(one), number(other), rel_tol=1e-4, abs_tol=1e-4)
