"""How far a piece of work is: a bar in a terminal, nothing where the output is a file."""

import importlib.util
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

Item = TypeVar("Item")


def has_bars(console: Console) -> bool:
    """Return whether a bar can be shown and replaced: in a terminal, and in a notebook that has ipywidgets."""
    if console.is_jupyter:
        return importlib.util.find_spec("ipywidgets") is not None and not console.quiet
    return console.is_terminal


def say(console: Console, text: str) -> None:
    """Print a line that may hold a path or a name: neither broken, nor coloured, nor read as markup.

    What the terminal's encoding has not is printed with escapes.
    """
    text = text.encode(console.encoding, "backslashreplace").decode(console.encoding)
    console.print(text, soft_wrap=True, highlight=False, markup=False, emoji=False)


class CutColumn(ProgressColumn):
    """A field of the task, or its ``description``, cut where the line is too short: other columns stay whole."""

    def __init__(self, field: str, style: str = "") -> None:
        super().__init__(table_column=Column(no_wrap=False))  # rich narrows columns that may wrap, and only these
        self.field, self.style = field, style

    def render(self, task: Task) -> Text:
        """Return the text on one line."""
        text = task.description if self.field == "description" else task.fields[self.field]
        return Text(text, style=self.style, no_wrap=True, overflow="ellipsis")


def progress_bar(console: Console, *columns: ProgressColumn, transient: bool = False) -> Progress:
    """Return a bar with name, count and time left, which are never cut at 80 columns, then further columns."""
    return Progress(
        CutColumn("description", "bold"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("left"),
        *columns,
        console=console,
        transient=transient,
        disable=not has_bars(console),
    )


def shown(items: Iterable[Item], total: int, name: str, console: Console | None) -> Iterator[Item]:
    """Yield the items; a bar of this name shows how many of the total are done, and goes when all are."""
    if console is None or not has_bars(console):
        yield from items
        return
    with progress_bar(console, transient=True) as bar:
        yield from bar.track(items, total=total, description=name)
