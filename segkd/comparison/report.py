"""Writing a report: ``report.md`` with its plots beside it, and ``report.html``, which opens by itself, offline."""

import base64
import contextlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from segkd.common.files import replacing, write_text
from segkd.common.pictures import Picture, comparison_grid
from segkd.common.progress import say
from segkd.comparison import tables as of
from segkd.comparison.circumstances import config_table, environment_table, facts_on, remarks_on
from segkd.comparison.differences import mean_std
from segkd.comparison.gains import gain_plot
from segkd.comparison.plots import FEW, curve_plot, difference_plot
from segkd.comparison.records import Method
from segkd.comparison.versus import longer_runs, ways_to_compare
from segkd.data.samples import spread
from segkd.errors import SegkdError
from segkd.network import Network
from segkd.training.measure import seen_by
from segkd.training.task import Task
from segkd.training.tasks import task_of
from segkd.training.teacher import TeachersOf, teacher_configs

WIDTH = 480
"""Largest width of a picture in the report, in pixels."""


@dataclass(frozen=True)
class Tile:
    """A picture of a validation image, named ``image``, ``label`` or after a model, then with the score on it."""

    name: str
    picture: Picture
    score: str = ""

    @property
    def caption(self) -> str:
        """Return name and score."""
        return f"{self.name}: {self.score}" if self.score else self.name

    @property
    def uri(self) -> str:
        """Return the picture as a data URI: a photo as JPEG, what is painted in class colours alone as PNG."""
        image = Image.fromarray(np.ascontiguousarray(self.picture))
        is_photo = image.getcolors(256) is None
        if image.width > WIDTH:
            # Class colours stay exact: a blend of two may be a third's.
            how = Image.Resampling.LANCZOS if is_photo else Image.Resampling.NEAREST
            image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), how)
        written, kind = io.BytesIO(), "jpeg" if is_photo else "png"
        image.save(written, kind, quality=85, optimize=True)
        return data_uri(kind, written.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Return a picture as text that a page can hold."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def write_report(
    methods: Sequence[Method],
    against: Method,
    directory: Path,
    console: Console,
    agreed: Mapping[str, Any],
    pictures: int,
    open_runs: int = 0,
) -> None:
    """Write ``report.md``, ``report.html`` and ``plots/`` into a comparison's directory, and print the first table.

    Args:
        methods: what is compared.
        against: the one that the others are compared to.
        directory: the comparison's.
        console: where the table is shown.
        agreed: ``budget``, ``command``, ``same_time`` and ``pooled``, as far as they are known.
        pictures: how many validation images are shown.
        open_runs: how many runs are not finished: the title says so.
    """
    same_time = agreed.get("same_time", {})
    longer = list(longer_runs(methods, same_time).values())
    plain = [against.name, *[method.name for method in longer]]
    others = [method for method in methods if method.name not in plain]
    if len(others) > FEW:
        others = ranked(others)
    methods = [against, *longer, *others]
    ways = ways_to_compare(methods, against, same_time, agreed.get("pooled", False))
    tables = [
        of.result_table(methods, against, ways),
        of.cost_table(methods, against, same_time),
        of.seed_table(methods, against, ways),
        of.course_table(methods, against),
        of.class_table(methods, against),
        config_table(methods),
        environment_table(methods),
    ]
    config, score = against.first.config, of.measures_of(against)[0].label
    names = [method.name for method in [against, *others]]
    listed = ", ".join(names) if len(names) <= FEW else f"{against.name} and {len(others)} methods"
    title = f"{Path(config.data.dataset).stem}: {listed}"
    if open_runs:
        title += f" ({open_runs} {'run' if open_runs == 1 else 'runs'} open)"
    courses = methods if len(methods) <= FEW else [against, *others]  # the best are among the first
    plots = {
        "gain": (f"{score}, gain over cost", gain_plot(methods, against, ways, same_time.get("times"))),
        "difference": (f"{score}, difference to {against.name}", difference_plot(methods, against, ways[0])),
        "steps": (f"{score} over steps", curve_plot(courses, against, "steps")),
        "minutes": (f"{score} over time", curve_plot(courses, against, "minutes")),
    }
    drawn = {file: (name, svg) for file, (name, svg) in plots.items() if svg is not None}
    shown = strips([against, *others], pictures, console) if pictures else []
    legend = task_of(config).legend if shown else []

    folder = directory / "plots"
    folder.mkdir(exist_ok=True)
    for file, (_, svg) in drawn.items():
        write_text(folder / f"{file}.svg", svg)
    figures = {name: f"plots/{file}.svg" for file, (name, _) in drawn.items()}
    if shown:
        figures["the same validation images under each method"] = "plots/pictures.jpg"
        rows = [[tile.picture for tile in tiles] for tiles in shown]
        with replacing(folder / "pictures.jpg") as scratch:
            Image.fromarray(comparison_grid(rows, [tile.name for tile in shown[0]], legend)).save(scratch, quality=90)
    loader, escaped = PackageLoader("segkd.comparison", "."), select_autoescape(["html.j2"])
    environment = Environment(loader=loader, autoescape=escaped, trim_blocks=True)
    content = {
        "title": title,
        "facts": facts_on(methods, agreed),
        "remarks": remarks_on(methods, against, agreed),
        "tables": [table for table in tables if table is not None],
        "figures": figures,
        "plots": {name: data_uri("svg+xml", svg.encode()) for name, svg in drawn.values()},
        "strips": shown,
        "legend": legend,
    }
    for name in ("report.md", "report.html"):
        write_text(directory / name, environment.get_template(f"{name}.j2").render(content).rstrip() + "\n")
    _show(of.result_table(methods, against, ways), len(ways), console)
    for name in ("report.md", "report.html"):
        say(console, f"written: {directory / name}")


def ranked(methods: Sequence[Method]) -> list[Method]:
    """Return methods ordered by their mean score over all seeds, the best first."""
    score = of.measures_of(methods[0])[0]
    means = {each.name: mean_std([record.value(score.key) for record in each.records.values()])[0] for each in methods}
    worst = -math.inf if score.higher_is_better else math.inf
    known = {name: worst if math.isnan(mean) else mean for name, mean in means.items()}
    return sorted(methods, key=lambda method: known[method.name], reverse=score.higher_is_better)


def _show(table: of.Table, ways: int, console: Console) -> None:
    """Print as many columns as a terminal has room for: with several ways to compare the differences alone."""
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    columns = [0, 1, 2, 3] if ways == 1 else [0, 2, *range(3, 3 + ways)]
    # As wide as the names of methods: those of all that a teacher taught would leave no room for the figures.
    longest = max(len(row[0]) for row in table.rows if row[1])
    shown.add_column(table.header[0], no_wrap=True, min_width=min(longest, 30), max_width=max(longest, 30))
    for number in columns[1:]:
        shown.add_column(escape(table.header[number]), justify="right")
    for place, row in enumerate(table.rows):
        cells = [row[number] for number in columns]
        if ways > 1:  # intervals below; the deviation, and how many steps the baseline had, stand in the report
            cells[1:] = [cell.split(" (")[0].split(" ±")[0].replace(" [", "\n[") for cell in cells[1:]]
        strong = ["bold" if (place, number) in table.strong else "" for number in columns]
        shown.add_row(*map(Text, cells, strong))
    console.print(shown)


@torch.no_grad()
def strips(methods: Sequence[Method], count: int, console: Console) -> list[list[Tile]]:
    """Return ``count`` validation images spread over the split; for each the image, its label, teachers, each method.

    A method is shown by the student of its first seed, with that student's score on this image alone. Empty where the
    data set or a student is not available.
    """
    found: list[list[Tile]] = []
    try:
        task = task_of(methods[0].first.config)
        dataset = task.val_set()
        shown = spread(list(range(len(dataset))), count)
        for item in (dataset[index] for index in shown):
            image = item["image"].permute(1, 2, 0).numpy()
            found.append([Tile("image", image), Tile("label", task.draw(item))])
        for name, role, of, network in _models(methods):
            # Each under its own config: normalisation and size of the images are a method's own.
            own = of.val_set()
            for tiles, index in zip(found, shown, strict=True):
                item = seen_by(role, own[index])
                metrics = of.metrics(sync_on_compute=False)
                of.count(metrics, network, own.collate([item]))
                score = f"{of.score.label} {of.score.shown(metrics.compute()[of.score.key])}"
                tiles.append(Tile(name, of.draw(item, network), score))
    except SegkdError as error:
        say(console, f"the report has no pictures: {error}")
        return []
    return found


def _models(methods: Sequence[Method]) -> Iterator[tuple[str, str, Task, Network]]:
    """Yield name, role, task and model: teachers of the first method that has any, if there, and each student."""
    taught = next((method.first.config for method in methods if method.first.config.named_teachers()), None)
    if taught is not None:
        task = task_of(taught)
        with contextlib.suppress(SegkdError):
            teachers = TeachersOf(task, teacher_configs(taught))
            teachers.load(to_measure=True)
            for name, network in teachers.predicting.items():
                yield name, "teacher", task, network.eval()
    for method in methods:
        task = task_of(method.first.config)
        yield method.name, "student", task, task.load_student(method.first.run.student)
