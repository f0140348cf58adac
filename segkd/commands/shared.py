"""What the commands share: the console, the arguments that several take, a result as a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segkd.common.progress import say
from segkd.errors import SegkdError

if TYPE_CHECKING:
    from segkd.training.schema import Config

console = Console()


def shipped_names(incomplete: str) -> list[str]:
    """Return the names of the shipped configs that begin so, for a shell's completion."""
    from segkd.training.config import shipped_configs

    return [path.stem for path in shipped_configs() if path.stem.startswith(incomplete)]


CONFIG_HELP = "A config file, or the name of a shipped one (see: segkd configs)."
ConfigName = Annotated[str, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, autocompletion=shipped_names)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY.PATH=VALUE", help="Changes to the config, such as trainer.max_steps=100."),
]
DEVICE_HELP = "cpu, cuda, cuda:1, mps, or auto for the fastest"
On = Annotated[
    str | None,
    typer.Option(
        metavar="ray|ray=ADDRESS",
        help="Do the work on a Ray cluster: of this machine alone, or the one at ADDRESS.",
    ),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def read_config(name: str, overrides: Sequence[str] | None) -> "Config":
    """Return a config, checked with its data set's description before torch and the models' libraries are imported."""
    from segkd.training.config import load_config
    from segkd.training.tasks import task_of

    try:
        config = load_config(name, overrides or [], build=False)
    except SegkdError:
        _refuse_description(name)
        raise
    dataset = task_of(config).spec
    if getattr(dataset, "generator", None) and not dataset.resolve_root(config.data.root).is_dir():
        say(console, f"{dataset.name}: its scenes are drawn, into {dataset.resolve_root(config.data.root)}")
    return load_config(name, overrides or [])


def _refuse_description(name: str) -> None:
    """Raise where what is named describes a data set: read as a config, its keys would be called unknown."""
    from segkd.training.config import find_config
    from segkd.training.tasks import bare_dataset

    try:
        found = str(find_config(name))
    except SegkdError:  # a shipped data set, or nothing at all
        found = name
    try:
        is_description = bare_dataset(found) is not None
    except SegkdError:  # one that has a fault
        is_description = True
    if is_description:
        raise SegkdError(f"{name} describes a data set, but a config is expected: name one, with data.dataset={found}")


def print_result(result: dict[str, Any]) -> None:
    """Print teachers and student side by side: the means, then each class."""
    from segkd.training.results import measures_of, models_of, rows

    unit = ", %" if measures_of(result)[0].unit == "%" else ""
    table = Table(f"{result['split']}{unit}", box=None, pad_edge=False, header_style="bold")
    for model in models_of(result):
        table.add_column(model, justify="right", min_width=8)
    for number, (label, values) in enumerate(rows(result)):
        table.add_row(escape(label), *values, style="" if number else "bold")
    console.print(table)
    if "last" in result and result["student"]["step"] != result["steps"]:
        score, best = measures_of(result)[0], result["student"]["step"]
        last = f"{score.label} {score.shown(result['last'][score.key])}"
        say(console, f"The student is that of step {best}, the best validation; the last step has {last}.")


def whole_number(text: str) -> int:
    """Parse a whole number, also one such as 2e9."""
    try:
        value = float(text)
        if value >= 1 and value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise typer.BadParameter(f"expected a whole number above 0, such as 2e9, got {text!r}")
