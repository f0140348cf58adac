"""Looking at what there is: configs, methods, data."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from segkd.commands.shared import (
    ConfigName,
    Debug,
    Overrides,
    console,
    read_config,
    shipped_names,
    whole_number,
)
from segkd.common.progress import say
from segkd.errors import SegkdError, nearest

OWN = """
One of your own is package.module:Name in place of a name: a class or a function
of a module in the working directory, beside the config, or installed."""


def configs(debug: Debug = False) -> None:
    """List the shipped configs and what each one does."""
    from segkd.training.config import describe, shipped_configs

    table = Table("config", "what it does", box=None, pad_edge=False)
    for path in shipped_configs():
        table.add_row(path.stem, escape(describe(path)))
    console.print(table)


def methods(debug: Debug = False) -> None:
    """List methods, models and what else a config can name."""
    from segkd.registry import KINDS, things
    from segkd.training.options import about

    for name, kind in KINDS.items():
        if not things(name):
            continue
        console.print(f"\n[bold]{kind.plural}: {kind.key}[/]", highlight=False)
        for thing in things(name).values():
            console.print(f"  [bold]{thing.name}[/]: {escape(thing.title)}", highlight=False)
            table = Table(box=None, show_header=False, padding=(0, 1, 0, 4))
            for label, text in about(thing).items():
                table.add_row(label, escape(text))
            if table.rows:
                console.print(table, highlight=False)
    console.print(OWN, highlight=False)


def check(
    data: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|DATASET",
            help="A config as for train, or a data set: the file that describes it, or the name of a shipped one.",
            autocompletion=shipped_names,
        ),
    ],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Read a whole data set and report what is wrong.

    Reports the sizes of images and how often each class occurs, and every file that is missing, unreadable, of another
    size than it should have, or holds what is no class.

    \b
    Examples:
      segkd data check my_config.yaml
      segkd data check my_set.yaml data.root=/data/my_set
      segkd data check camvid
    """
    from segkd.data.check import check_dataset, check_unlabelled
    from segkd.resources import resource_dir
    from segkd.training.config import find_config, shipped_configs
    from segkd.training.tasks import bare_dataset, task_of

    dataset, extra = bare_dataset(data), None
    if dataset is None:
        try:
            find_config(data)
        except SegkdError:
            if Path(data).is_dir():
                raise
            names = [path.stem for path in (*shipped_configs(), *sorted(resource_dir("datasets").glob("*.yaml")))]
            hint = nearest(Path(data).stem, names)
            raise SegkdError(f"there is no config and no data set {data!r}: {hint}") from None
        config = read_config(data, overrides)
        dataset, root, extra = task_of(config).spec, config.data.root, config.data.unlabelled
    else:
        for text in overrides or []:
            if not text.startswith(("data.root=", "data.max_pixels=")):
                raise SegkdError(
                    f"of a data set without a config only data.root and data.max_pixels can be changed, got {text!r}"
                )
        changes = dict(text.split("=", 1) for text in overrides or [])
        root = changes.get("data.root")
        if "data.max_pixels" in changes:
            dataset = dataset.limited(whole_number(changes["data.max_pixels"]))
    report = check_dataset(dataset, root, console)
    if extra is not None:
        added = check_unlabelled(dataset.find_images(extra.images, root), dataset.max_pixels, console)
        report = replace(report, splits=[*report.splits, added])
    say(console, str(report))
    if report.problems:
        raise SegkdError(f"{len(report.problems)} problem(s) in data set {dataset.name!r}")


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
        raise SegkdError(f"the picture {out} cannot be written: {getattr(error, 'strerror', None) or error}") from None
    say(console, f"{out} shows {count} samples of {loaded.data.dataset}")
