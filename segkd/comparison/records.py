"""Finished runs as a report needs them: read from their directories, and grouped by method."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from segkd.common.progress import say
from segkd.comparison.plan import check_comparable, is_same_method
from segkd.comparison.work import MARKER
from segkd.errors import SegkdError
from segkd.training.results import measures_of
from segkd.training.run import Run, settings
from segkd.training.schema import Config
from segkd.training.stages import stage_configs
from segkd.training.teacher import teacher_configs

# What a report reads of a result.
_PARTS = {"student": dict, "last": dict, "classes": list, "seed": int, "environment": dict}


@dataclass(frozen=True)
class Record:
    """One finished run.

    Args:
        run: where it is.
        config: that it was made with.
        result: what it measured, see `segkd.training.train.train`.
        curve: of each validation its ``step``, the ``seconds`` of training before it, and the score, in [0, 1].
    """

    run: Run
    config: Config
    result: dict[str, Any]
    curve: list[tuple[int, float, float]]

    def value(self, measure: str) -> float:
        """Return what the saved student measured; NaN where nothing could be measured."""
        found = self.result["student"][measure]
        return float("nan") if found is None else float(found)


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
        distills = [config.distill for config in stage_configs(self.first.config)]
        return any(distill.named_terms() or distill.pixel_weighting for distill in distills)

    def values(self, measure: str) -> list[float]:
        """Return a measure of each run."""
        return [record.value(measure) for record in self.records.values()]


def read_records(paths: Sequence[Path], console: Console) -> list[Record]:
    """Read finished runs.

    Args:
        paths: run directories, or folders of them; of a folder, unfinished runs and its runs' teachers are left out.
        console: where it is said what was left out.

    Raises:
        SegkdError: a path holds no finished run, a run lacks what it measured, or two cannot be compared.
    """
    records: list[Record] = []
    for path in paths:
        if Run(path).config_file.is_file():
            records.append(read_record(Run(path)))
        elif len(paths) == 1 or not _is_report(path):
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


def _is_report(path: Path) -> bool:
    """Whether a folder holds an earlier report on runs that lie elsewhere: ``runs/*`` names it too."""
    return (path / MARKER).is_file() and not any(path.glob("*/config.yaml"))


def _folder(path: Path, console: Console) -> list[Record]:
    runs = [Run(file.parent) for file in sorted(path.glob("*/config.yaml"))]
    unfinished = [run.directory.name for run in runs if not run.finished]
    if unfinished:
        say(console, f"not finished, left out: {', '.join(unfinished)}")
    records = [read_record(run) for run in runs if run.finished]
    teachers = {name for record in records for name in _teacher_names(record.config)}
    kept = [record for record in records if record.config.name not in teachers]
    if not kept:
        raise SegkdError(f"{path} holds no finished run; expected a run directory, or a folder of them")
    return kept


def _teacher_names(config: Config) -> list[str]:
    try:
        return [own.name for own in teacher_configs(config).values()]
    except SegkdError:  # its config did not come along with the run
        return []


def read_record(run: Run) -> Record:
    """Read one run.

    Raises:
        SegkdError: it is not finished, or lacks what it measured.
    """
    if not run.finished:
        raise SegkdError(f"{run.directory} is not finished: go on with 'segkd train --resume {run.directory}'")
    config, result = run.config(), run.result()
    missing = [key for key, kind in _PARTS.items() if not isinstance(result.get(key), kind)]
    if missing:
        raise SegkdError(f"{run.result_file} has no {missing[0]!r}: it was not written by 'segkd train'")
    result.setdefault("task", config.task)  # which version 0.1 did not write
    score = measures_of(result)[0].key
    if not isinstance(result["student"].get(score, ""), int | float | None):
        raise SegkdError(f"{run.result_file} has no metrics: expected {score!r} under 'student'")
    return Record(run, config, result, _curve(run, f"val/{score}"))


def _curve(run: Run, score: str) -> list[tuple[int, float, float]]:
    try:
        # A measure may be absent from a row: nothing was there to measure.
        rows = [(int(row["step"]), float(row["seconds"]), float(row[score] or "nan")) for row in run.rows()]
    except SegkdError:
        raise
    except (KeyError, ValueError) as error:
        reason = f"no column {error}" if isinstance(error, KeyError) else str(error)
        raise SegkdError(f"{run.metrics} cannot be read: {reason}") from None
    if not rows:
        raise SegkdError(f"{run.metrics} has no rows: the run was never validated")
    return rows


def group(records: Iterable[Record]) -> list[Method]:
    """Group runs whose configs differ in nothing but name and seed, in the order in which they come.

    Raises:
        SegkdError: two runs of one method have the same seed.
    """
    groups: list[list[Record]] = []
    for record in records:
        same = [each for each in groups if is_same_method(each[0].config, record.config)]
        if not same:
            groups.append([])
        (same or groups)[-1].append(record)
    methods: list[Method] = []
    for each in groups:
        seeds = [record.config.seed for record in each]
        twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
        if twice is not None:
            names = [str(record.run.directory) for record in each if record.config.seed == twice]
            raise SegkdError(f"{' and '.join(names[:2])} are the same config with the same seed {twice}: name one")
        ordered = sorted(each, key=lambda record: record.config.seed)
        name = _common_name([record.config.name for record in ordered])
        taken = [method.name for method in methods]
        if name in taken:
            name = f"{name} ({sum(other.split(' (')[0] == name for other in taken) + 1})"
        methods.append(Method(name, {record.config.seed: record for record in ordered}))
    return methods


def _common_name(names: Sequence[str]) -> str:
    """What the names of one config's runs have in common: of ``kd_seed0`` and ``kd_seed1`` it is ``kd``."""
    bare = {re.sub(r"(?<=\w)[-_.]?(seed|s)?[-_]?\d+$", "", name) for name in names}
    return bare.pop() if len(bare) == 1 and len(names) > 1 else re.sub(r"[-_.]?seed[-_]?\d+$", "", names[0])


def find_baseline(methods: Sequence[Method], name: str | None = None) -> Method:
    """Return the method of that name, else the one that distils nothing, else the first.

    Of several that distil nothing it is one with a student that the others teach: a teacher may be among them.

    Raises:
        SegkdError: there is no method of that name.
    """
    named = {method.name: method for method in methods}
    if name is not None and name not in named:
        raise SegkdError(f"--baseline {name!r} is none of the methods: {', '.join(named)}")
    if name is not None:
        return named[name]
    plain = [method for method in methods if not method.distils] or list(methods)
    students = [method.first.config.student for method in methods if method.distils]
    return next((method for method in plain if method.first.config.student in students), plain[0])


def differing_keys(methods: Sequence[Method]) -> dict[str, list[Any]]:
    """Return of each key in which the configs differ its value under each method; None where a method lacks it."""
    flats = [settings(method.first.config) for method in methods]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    differing = [key for key in keys if len({repr(flat.get(key)) for flat in flats}) > 1]
    return {key: [flat.get(key) for flat in flats] for key in differing if key not in ("name", "seed", "runs")}
