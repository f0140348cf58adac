"""Finished runs as a report needs them: read from their directories, and grouped by method."""

import contextlib
import itertools
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from segkd.common.progress import say
from segkd.comparison.plan import check_comparable, distils, is_same_method, plainest
from segkd.comparison.work import MARKER
from segkd.errors import SegkdError
from segkd.training.results import measures_of
from segkd.training.run import Run, settings
from segkd.training.schema import Config
from segkd.training.teacher import teacher_configs

# What a report reads of a result.
_PARTS = {"student": dict, "last": dict, "classes": list, "seed": int, "environment": dict}


@dataclass(frozen=True)
class Record:
    """One finished run, with its config and its result, see `segkd.training.train.train`."""

    run: Run
    config: Config
    result: dict[str, Any]
    curve: list[tuple[int, float, float]]
    """For each validation its step, the seconds of training before it, and the score."""

    @property
    def batch(self) -> int:
        """Return how many images an optimiser step sees."""
        config, processes = self.config, int(self.result["environment"]["processes"])
        return config.data.batch_size * config.trainer.accumulate * processes

    def value(self, measure: str) -> float:
        """Return a measure of the saved student; NaN where nothing could be measured."""
        return number(self.result["student"][measure])


@dataclass(frozen=True)
class Method:
    """The runs of one config: a run for each seed, in the order of the seeds."""

    name: str
    records: dict[int, Record]

    @property
    def first(self) -> Record:
        """Return the run with the lowest seed."""
        return next(iter(self.records.values()))

    @property
    def distils(self) -> bool:
        """Whether a teacher has any part in the training."""
        return distils(self.first.config)

    @property
    def minutes(self) -> float:
        """Return the minutes of training, mean over the seeds."""
        return statistics.fmean(record.curve[-1][1] / 60 for record in self.records.values())


def number(value: float | None) -> float:
    """Return a value of a result as a float; a null there is NaN."""
    return float("nan") if value is None else float(value)


def records_of(methods: Iterable[Method]) -> list[Record]:
    """Return all runs."""
    return [record for method in methods for record in method.records.values()]


def read_records(paths: Sequence[Path], console: Console) -> list[Record]:
    """Read finished runs: directories, or folders of them, where unfinished runs and teachers are left out."""
    records: list[Record] = []
    for path in paths:
        if Run(path).config_file.is_file():
            records.append(read_record(Run(path)))
        # A folder with nothing but an earlier report is passed over: ``runs/*`` names it too.
        elif len(paths) == 1 or not (path / MARKER).is_file() or any(path.glob("*/config.yaml")):
            records += _folder(path, console)
    if not records:
        raise SegkdError(f"{paths[0]} holds no run: expected run directories, or folders of them")
    first = records[0]
    for record in records:
        check_comparable(first.config, record.config)
        if record.result["classes"] != first.result["classes"]:
            raise SegkdError(
                f"{first.run.directory} and {record.run.directory} cannot be compared: their classes are "
                f"{', '.join(first.result['classes'])} and {', '.join(record.result['classes'])}"
            )
    return records


def _folder(path: Path, console: Console) -> list[Record]:
    runs = [Run(file.parent) for file in sorted(path.glob("*/config.yaml"))]
    unfinished = [run.directory.name for run in runs if not run.finished]
    if unfinished:
        say(console, f"not finished, left out: {', '.join(unfinished)}")
    records = [read_record(run) for run in runs if run.finished]
    teachers: set[str] = set()
    for record in records:
        with contextlib.suppress(SegkdError):  # its config did not come along with the run
            teachers |= {own.name for own in teacher_configs(record.config).values()}
    kept = [record for record in records if record.config.name not in teachers]
    if not kept:
        raise SegkdError(f"{path} holds no finished run; expected a run directory, or a folder of them")
    return kept


def read_record(run: Run) -> Record:
    """Read one run, which must be finished."""
    if not run.finished:
        raise SegkdError(f"{run.directory} is not finished: go on with 'segkd train --resume {run.directory}'")
    config, result = run.config(), run.result()
    missing = [key for key, kind in _PARTS.items() if not isinstance(result.get(key), kind)]
    if missing:
        raise SegkdError(f"{run.result_file} has no {missing[0]!r}: it was not written by 'segkd train'")
    result.setdefault("task", config.task)  # which version 0.1 did not write
    if "processes" not in result["environment"]:
        raise SegkdError(f"{run.result_file} has no 'processes' under 'environment'")
    measures = measures_of(result)
    score = measures[0].key
    for part in ("student", "last"):
        if not isinstance(result[part].get(score, ""), int | float | None):
            raise SegkdError(f"{run.result_file} has no metrics: expected {score!r} under {part!r}")
    of_classes = next((each.key for each in measures if each.of_classes), None)
    values = result["classes"] if of_classes is None else result["student"].get(of_classes)
    if not isinstance(values, list) or len(values) != len(result["classes"]):
        raise SegkdError(f"{run.result_file} has not one {of_classes!r} for each class under 'student'")
    rows = run.rows("seconds", f"val/{score}")
    if not rows:
        raise SegkdError(f"{run.metrics} has no rows: the run was never validated")
    # A measure may be absent from a row: nothing was there to measure.
    curve = [(int(row["step"]), float(row["seconds"]), float(row[f"val/{score}"] or "nan")) for row in rows]
    return Record(run, config, result, curve)


def group(records: Iterable[Record]) -> list[Method]:
    """Group runs whose configs differ in nothing but name and seed, in the order in which they come."""
    groups: list[list[Record]] = []
    for record in records:
        same = next((each for each in groups if is_same_method(each[0].config, record.config)), None)
        if same is None:
            groups.append(same := [])
        same.append(record)
    methods: list[Method] = []
    for each in groups:
        ordered = sorted(each, key=lambda record: record.config.seed)
        for one, other in itertools.pairwise(ordered):
            if one.config.seed == other.config.seed:
                both = f"{one.run.directory} and {other.run.directory}"
                raise SegkdError(f"{both} are the same config with the same seed {one.config.seed}: name one")
        name = _common_name([record.config.name for record in ordered])
        taken = [method.name for method in methods]
        if name in taken:
            name = f"{name} ({sum(other.split(' (')[0] == name for other in taken) + 1})"
        methods.append(Method(name, {record.config.seed: record for record in ordered}))
    return methods


def _common_name(names: Sequence[str]) -> str:
    """Return what the names of one config's runs have in common: ``kd`` of ``kd_seed0`` and ``kd_seed1``."""
    bare = {re.sub(r"(?<=.)[-_.]?(seed|s)?[-_]?\d+$", "", name) for name in names}
    return bare.pop() if len(bare) == 1 and len(names) > 1 else re.sub(r"[-_.]?seed[-_]?\d+$", "", names[0])


def find_baseline(methods: Sequence[Method], name: str | None = None) -> Method:
    """Return the method of that name, else what `segkd.comparison.plan.plainest` chooses."""
    named = {method.name: method for method in methods}
    if name is not None and name not in named:
        raise SegkdError(f"--baseline {name!r} is none of the methods: {', '.join(named)}")
    return named[name or plainest({method.name: method.first.config for method in methods})]


def differing_keys(methods: Sequence[Method]) -> dict[str, list[Any]]:
    """Return each key in which the configs differ, with its value under each method; None where that lacks it."""
    flats = [settings(method.first.config) for method in methods]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    differing = [key for key in keys if len({repr(flat.get(key)) for flat in flats}) > 1]
    return {key: [flat.get(key) for flat in flats] for key in differing if key not in ("name", "seed", "runs")}
