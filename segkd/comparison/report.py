"""Writing a report: ``report.md`` with its plots beside it, and ``report.html``, which opens by itself, offline."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from segkd.common.files import replacing, write_text
from segkd.common.progress import say
from segkd.comparison.pictures import grid, legend, strips
from segkd.comparison.plots import curve_plot, difference_plot
from segkd.comparison.records import Method, Record
from segkd.comparison.tables import (
    Table,
    class_table,
    config_table,
    cost_table,
    environment_table,
    measures_of,
    remarks_on,
    result_table,
    seed_table,
    shortened,
)


def write_report(
    methods: Sequence[Method],
    against: Method,
    directory: Path,
    console: Console,
    agreed: Mapping[str, Any],
    pictures: int,
    open_runs: int = 0,
) -> None:
    """Write ``report.md``, ``report.html`` and ``plots/`` into a directory, and print the first table.

    Args:
        methods: what is compared.
        against: that of them which the others are compared to.
        directory: the comparison's.
        console: where the table is shown.
        agreed: ``budget`` and ``command`` of the comparison, as far as they are known.
        pictures: how many validation images are shown.
        open_runs: how many runs of the comparison are not finished: the title says so.
    """
    methods = [against, *[method for method in methods if method is not against]]
    tables = [
        result_table(methods, against),
        cost_table(methods, against),
        seed_table(methods, against),
        *([of_classes] if (of_classes := class_table(methods, against)) is not None else []),
        config_table(methods),
        environment_table(methods),
    ]
    title = f"{Path(against.first.config.data.dataset).stem}: {', '.join(method.name for method in methods)}"
    if open_runs:
        title += f" ({open_runs} {'run' if open_runs == 1 else 'runs'} open)"
    facts = _facts(methods, agreed)
    remarks = remarks_on(methods, against, agreed.get("budget", "steps"))
    score = measures_of(against)[0].label
    plots = {
        f"{score}, difference to {against.name}": ("difference.svg", difference_plot(methods, against)),
        f"{score} over steps": ("steps.svg", curve_plot(methods, against, "steps")),
        f"{score} over time": ("minutes.svg", curve_plot(methods, against, "minutes")),
    }
    drawn = {name: (file, svg) for name, (file, svg) in plots.items() if svg is not None}
    shown = strips(methods, pictures, console) if pictures else []

    for file, svg in drawn.values():
        _write(directory / "plots" / file, svg)
    figures = {name: f"plots/{file}" for name, (file, _) in drawn.items()}
    if shown:
        figures["the same validation images under each method"] = "plots/pictures.jpg"
        with replacing(directory / "plots" / "pictures.jpg") as scratch:
            Image.fromarray(grid(shown, methods)).save(scratch, quality=90)
    _write(directory / "report.md", _markdown(title, facts, remarks, tables, figures))
    template = Environment(loader=PackageLoader("segkd.comparison", "."), autoescape=True).get_template(
        "report.html.j2"
    )
    html = template.render(
        title=title,
        facts=facts,
        remarks=remarks,
        tables=tables,
        plots={name: _data_uri(svg) for name, (_, svg) in drawn.items()},
        strips=shown,
        legend=legend(methods) if shown else [],
    )
    _write(directory / "report.html", html)
    _show(tables[0], console)
    for name in ("report.md", "report.html"):
        say(console, f"written: {directory / name}")


def _facts(methods: Sequence[Method], agreed: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What stands above the tables: what was compared, on what, by which command."""
    config = methods[0].first.config
    environment = methods[0].first.result["environment"]
    budget = agreed.get("budget", "steps")
    records = [record for method in methods for record in method.records.values()]
    steps = sorted({record.config.trainer.max_steps for record in records})
    batches = sorted({_batch(record) for record in records})
    gpu = environment.get("gpu")
    threads = f"{environment['cpu']}, {environment['threads']} thread(s)"
    counts = f"{', '.join(map(str, steps))} steps of batch {', '.join(map(str, batches))}"
    facts = [
        ("data", f"{shortened(config.data.dataset)}, split {config.data.val_split}"),
        ("runs", f"{len(records)}, of {len(methods)} methods"),
        ("budget", f"{budget}: {counts}" if "minutes" in budget else counts),
        ("hardware", f"{environment['processes']} x {gpu}" if gpu else threads),
    ]
    return [*facts, ("command", agreed["command"])] if "command" in agreed else facts


def _batch(record: Record) -> int:
    """How many images an optimiser step sees."""
    config = record.config
    return config.data.batch_size * config.trainer.accumulate * int(record.result["environment"]["processes"])


def _markdown(
    title: str,
    facts: Sequence[tuple[str, str]],
    remarks: Sequence[str],
    tables: Sequence[Table],
    figures: dict[str, str],
) -> str:
    lines = [f"# {title}", "", *[f"- {name}: {value}" for name, value in facts], ""]
    lines += [f"> {remark}" for remark in remarks] + ([""] if remarks else [])
    for number, table in enumerate(tables):
        lines += [f"## {table.title}", "", *_markdown_table(table), ""]
        if table.note:
            lines += [table.note, ""]
        if number == 0:
            for name, file in figures.items():
                lines += [f"![{name}]({file})", ""]
    return "\n".join(lines)


def _markdown_table(table: Table) -> list[str]:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rule = ["---"] + ["---" if table.text else "---:"] * (len(table.header) - 1)
    rows = [
        [f"**{cell}**" if (number, column) in table.strong and cell else cell for column, cell in enumerate(row)]
        for number, row in enumerate(table.rows)
    ]
    return [line(table.header), f"|{'|'.join(rule)}|", *map(line, rows)]


def _show(table: Table, console: Console) -> None:
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    columns = range(4)  # as many as a terminal has room for
    for column in columns:
        shown.add_column(escape(table.header[column]), justify="right" if column else "left")
    for row in table.rows:
        shown.add_row(*[escape(row[column]) for column in columns])
    console.print(shown)


def _data_uri(svg: str) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    write_text(path, text)
