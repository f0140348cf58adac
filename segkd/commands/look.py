"""Looking at what there is: configs, methods, data."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from segkd.commands.shared import ConfigName, Debug, Overrides, console, print_line, read_config
from segkd.errors import SegkdError


def configs(debug: Debug = False) -> None:
    """List the shipped configs and what each one does."""
    from segkd.training.config import describe, shipped_configs

    table = Table("config", "what it does", box=None, pad_edge=False)
    for path in shipped_configs():
        table.add_row(path.stem, escape(describe(path)))
    console.print(table)


def methods(debug: Debug = False) -> None:
    """List the methods, their options, defaults and papers."""
    from segkd.training.methods import GROUPS, defaults

    for place, group in GROUPS.items():
        console.print(f"\n[bold]{place}[/]", highlight=False)
        for name, method in group.items():
            table = Table(box=None, show_header=False, padding=(0, 1, 0, 2))
            table.add_row("", "reads", method.reads)
            table.add_row("", "options", escape(defaults(method)) or "none")
            table.add_row("", "paper", method.paper)
            console.print(f"  [bold]{name}[/]: {method.title}", highlight=False)
            console.print(table)


def check(config: ConfigName, overrides: Overrides = None, debug: Debug = False) -> None:
    """Read a whole data set and report what is wrong.

    Reports the sizes of images and how often each class occurs, and every file that is missing, unreadable, of another
    size than it should have, or holds what is no class.
    """
    from segkd.training.tasks import task_of

    loaded = read_config(config, overrides)
    report = task_of(loaded).check()
    print(report)
    if report.problems:
        raise SegkdError(f"{len(report.problems)} problem(s) in data set {loaded.data.dataset!r}")


def show(
    config: ConfigName,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(min=1, help="How many samples.")] = 6,
    split: Annotated[str | None, typer.Option(help="Which split; default the training split.")] = None,
    debug: Debug = False,
) -> None:
    """Write a picture of samples with their labels.

    In each row a sample with its label, before and after augmentation.
    """
    from segkd.training.tasks import task_of

    loaded = read_config(config, overrides)
    picture = task_of(loaded).samples(split or loaded.data.train_split, count)
    try:
        picture.save(out)
    except (OSError, ValueError) as error:
        raise SegkdError(f"the picture {out} cannot be written: {error}") from None
    print_line(f"{out} shows {count} samples of {loaded.data.dataset}")
