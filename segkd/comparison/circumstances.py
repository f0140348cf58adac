"""What a report says of how its runs were made: where configs differ, versions, and what weakens the comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segkd.comparison.records import Method, differing_keys, records_of
from segkd.comparison.tables import Table
from segkd.comparison.versus import longer_runs


def facts_on(methods: Sequence[Method], agreed: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what stands above the tables: what was compared, on what, by which command."""
    config, environment = methods[0].first.config, methods[0].first.result["environment"]
    budget, gpu = agreed.get("budget", "steps"), environment.get("gpu")
    records, longer = records_of(methods), longer_runs(methods, agreed.get("same_time", {}))
    steps = sorted({record.config.trainer.max_steps for record in records} - set(longer))
    batches = sorted({record.batch for record in records})
    threads = f"{environment['cpu']}, {environment['threads']} thread(s)"
    counts = f"{', '.join(map(str, steps))} steps of batch {', '.join(map(str, batches))}"
    facts = [
        ("data", f"{shortened(config.data.dataset)}, split {config.data.val_split}"),
        ("runs", f"{len(records)}, of {len(methods) - len(longer)} methods"),
        ("budget", f"{budget}: {counts}" if "minutes" in budget else counts),
        ("hardware", f"{environment['processes']} x {gpu}" if gpu else threads),
    ]
    if longer:
        counts = ", ".join(map(str, longer))
        facts.insert(3, ("same time", f"{agreed['same_time']['baseline']} also with {counts} steps"))
    return [*facts, ("command", agreed["command"])] if "command" in agreed else facts


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


def remarks_on(methods: Sequence[Method], baseline: Method, agreed: Mapping[str, Any] | None = None) -> list[str]:
    """Return what makes the comparison weaker than it looks; `agreed` holds the budget that was asked for."""
    remarks, agreed = [], agreed or {}
    counts = {method.name: len(method.records) for method in methods}
    if min(counts.values()) < 2:
        few = ", ".join(name for name, count in counts.items() if count < 2)
        remarks.append(f"One seed only: {few}. A single run says little about a difference below a point or two.")
    if len({tuple(method.records) for method in methods}) > 1:
        remarks.append("Not every method has the same seeds; differences are taken over the seeds that both have.")
    longer = longer_runs(methods, agreed.get("same_time", {}))
    steps = {record.config.trainer.max_steps for record in records_of(methods)} - set(longer)
    if len(steps) > 1 and "minutes" not in agreed.get("budget", "steps"):
        minutes = ", ".join(f"{method.name} {method.minutes:.1f}" for method in methods)
        remarks.append(f"The runs do not have the same number of steps; minutes of training: {minutes}")
    timed, shared = agreed.get("same_time", {}), []
    for method in methods:
        taken = [timed.get(key, {}).get(method.name, 0.0) for key in ("filling", "shared")]
        seeds = timed.get("seeds", {}).get(method.name)
        if seeds not in (None, counts[method.name]) and taken[1] < taken[0]:
            shared.append(f"{method.name} by {seeds}")
    if shared:
        remarks.append(f"Fillings were shared by another number of seeds than are here: {', '.join(shared)}.")
    if all(method.distils for method in methods):
        remarks.append(f"No run is without distillation: differences are to {baseline.name}.")
    elif baseline.distils:
        remarks.append(f"Differences are to {baseline.name}, which is distilled itself.")
    for key in ("cpu", "gpu", "torch", "segkd", "processes", "threads"):
        values = {str(record.result["environment"].get(key)) for record in records_of(methods)}
        if len(values) > 1:
            remarks.append(f"The runs were not made alike: {key} is {' and '.join(sorted(values))}.")
    return remarks


def shortened(text: str, parts: int = 1) -> str:
    """Return an absolute path by its last parts alone: where a file lay on one machine says nothing on another."""
    return f".../{'/'.join(Path(text).parts[-parts:])}" if Path(text).is_absolute() else text


def _written(values: Sequence[Any]) -> list[str]:
    """Return one key's values as text; paths are cut to as many last parts as tell different ones apart."""
    paths = {value for value in values if isinstance(value, str)}
    parts = next((n for n in range(1, 10) if len({shortened(path, n) for path in paths}) == len(paths)), 10)
    return [shortened(value, parts) if isinstance(value, str) else _value(value) for value in values]


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value).removesuffix(".0")
