"""The command line: each command parses, calls one function and prints."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from segkd.errors import SegkdError

app = typer.Typer(
    name="segkd",
    help="Distil a large segmentation model into a small one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
data = typer.Typer(help="Check and look at a data set before training on it.", no_args_is_help=True)
app.add_typer(data, name="data")
console = Console()

ConfigName = Annotated[str, typer.Argument(metavar="CONFIG", help="A config file, or the name of a shipped one.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Changes, e.g. trainer.max_steps=1000.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A config file, or the name of a shipped one.")
    ] = None,
    overrides: Overrides = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with the run in this directory, where it stopped.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Train what CONFIG says: its teacher first if there is none yet, then the student.

    Everything goes to runs/<name>: TensorBoard events, metrics.csv, checkpoints, and the student at the end.

    Example: segkd train quickstart trainer.max_steps=100 seed=1
    """
    from segkd.training import train as training
    from segkd.training.config import find_config, load_config

    if (config is None) == (resume is None):
        raise SegkdError("segkd train takes a CONFIG, or --resume RUN")
    if resume is not None:
        result = training.resume(resume, console)
    else:
        assert config is not None
        path = find_config(config)
        result = training.train(load_config(str(path), overrides or []), console, source=path.parent)
    _print_result(result)
    console.print(f"The student is in {result['run']}/student; see the run with: tensorboard --logdir {result['run']}")


@app.command("eval")
def evaluate(
    target: Annotated[str, typer.Argument(metavar="RUN|CONFIG", help="A run directory, a config file or a name.")],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Measure a run's student and its teacher on the validation split, or the models that a config names."""
    from segkd.training.evaluate import evaluate

    _print_result(evaluate(target, overrides or []))


@app.command()
def configs(debug: Debug = False) -> None:
    """List the shipped configs and what each one does."""
    from segkd.training.config import describe, shipped_configs

    table = Table("config", "what it does", box=None, pad_edge=False)
    for path in shipped_configs():
        table.add_row(path.stem, escape(describe(path)))
    console.print(table)


@app.command()
def methods(debug: Debug = False) -> None:
    """List the methods: what each reads, its options with their defaults, and its paper."""
    from segkd.training.methods import LOSSES, SCHEDULES, WEIGHTINGS, defaults

    for title, group in (("losses", LOSSES), ("schedules", SCHEDULES), ("pixel weighting", WEIGHTINGS)):
        table = Table("name", "method", "reads", "options", "paper", title=title, title_justify="left")
        for name, method in group.items():
            table.add_row(name, method.title, method.reads, escape(defaults(method)), method.paper)
        console.print(table)


@data.command("check")
def check(config: ConfigName, overrides: Overrides = None, debug: Debug = False) -> None:
    """Read every image and label of the config's data set; report sizes, class shares and all that is wrong."""
    from segkd.segmentation.check import check_dataset
    from segkd.training.build import build_spec
    from segkd.training.config import load_config

    loaded = load_config(config, overrides or [])
    report = check_dataset(build_spec(loaded), loaded.data.root)
    print(report)
    if report.problems:
        raise SegkdError(f"{len(report.problems)} problems in data set {loaded.data.dataset!r}")


@data.command("show")
def show(
    config: ConfigName,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    count: Annotated[int, typer.Option(min=1, help="How many samples.")] = 6,
    split: Annotated[str | None, typer.Option(help="Which split; default the training split.")] = None,
    debug: Debug = False,
) -> None:
    """Write a contact sheet: images with their labels, before and after augmentation."""
    from segkd.training.build import sample_sheet
    from segkd.training.config import load_config

    loaded = load_config(config, overrides or [])
    sample_sheet(loaded, split or loaded.data.train_split, count, out)
    console.print(f"{out} shows {count} samples of {loaded.data.dataset}")


def _print_result(result: dict[str, Any]) -> None:
    """Print teacher and student side by side: the means, then each class."""
    models = [name for name in ("teacher", "student") if result.get(name)]
    table = Table("class", *models, title="validation, %", title_justify="left")
    for number in range(1, len(models) + 1):
        table.columns[number].justify = "right"

    def percent(value: float) -> str:
        return "-" if value != value else f"{100 * value:.2f}"

    for key, label in (("miou", "mIoU"), ("pixel_accuracy", "pixel accuracy"), ("class_accuracy", "class accuracy")):
        table.add_row(label, *[percent(result[model][key]) for model in models], style="bold" if key == "miou" else "")
    table.add_section()
    for index, name in enumerate(result["classes"]):
        table.add_row(name, *[percent(result[model]["iou"][index]) for model in models])
    console.print(table)
    if "last" in result:
        best, last = result["student"]["step"], percent(result["last"]["miou"])
        console.print(f"The student is that of step {best}, the best validation; the last step has mIoU {last}.")


def main() -> None:
    """Run the command line: a user's error is one line and exit status 2; ``--debug`` shows its traceback."""
    try:
        app()
    except Exception as error:  # the last resort: whatever it is, a person gets a line, not a traceback
        if "--debug" in sys.argv:
            raise
        expected = isinstance(error, SegkdError)
        text = str(error) if expected else f"{type(error).__name__}: {' '.join(str(error).split())}"
        hint = "" if expected else " (--debug shows where)"
        print(f"segkd: {text}{hint}", file=sys.stderr)
        sys.exit(2 if expected else 1)


if __name__ == "__main__":
    main()
