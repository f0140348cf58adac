"""Filling the stores of teachers, and looking after them."""

from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.table import Table

from segkd.commands.shared import Debug, On, console, read_config, shipped_names
from segkd.common.progress import say
from segkd.errors import SegkdError, nearest


def store(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG [KEY.PATH=VALUE]",
            help="A config and changes to it; with --prune names of stores.",
            autocompletion=shipped_names,
        ),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Show the stores: what they are of, and how large.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove the stores that are named, or are unused.")] = False,
    unused: Annotated[
        int | None, typer.Option(min=0, metavar="DAYS", help="With --prune: all that were not used for so many days.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where stores lie; default $SEGKD_STORE, else runs/store.")
    ] = None,
    on: On = None,
    debug: Debug = False,
) -> None:
    """Keep what teachers give for training to read.

    It is read instead of running them where the config says teacher.store: true. A run fills its store by itself
    before its first step; this does it without training, such as on another machine. Runs that see the same views
    (data.views, data.view_seed) share a store, with teacher.store.whole=true all that see the same images.

    \b
    Examples:
      segkd store my_config
      segkd store my_config data.views=8 data.view_seed=0
      segkd store my_config teacher.store.whole=true
      segkd store --list
      segkd store --prune --unused 30
    """
    named = arguments or []
    options = {"--prune": prune, "--unused": unused is not None, "--on": on is not None}
    given = [name for name, is_given in options.items() if is_given]
    if list_:
        _refuse("--list takes --folder alone", [*map(repr, named), *given])
    elif prune:
        _refuse("--prune takes names of stores, --unused and --folder", [name for name in given if name == "--on"])
    if list_ or prune:
        from segkd.training.storing import store_root

        root = folder or store_root()
        _prune(root, named, unused) if prune else _list(root)
        return
    if not named or "=" in named[0]:
        raise SegkdError("segkd store takes a CONFIG, --list or --prune (see: segkd store --help)")
    _refuse("CONFIG takes changes to it, --folder and --on", [name for name in given if name == "--unused"])
    changes = named[1:]
    config = read_config(named[0], changes)
    if folder is not None:
        from segkd.training.config import load_config

        # Of the teachers that are stored alone: the key of another one would have that stored too.
        stored = [name for name, block in config.named_teachers().items() if block.store is not None]
        changes = [*changes, *(f"{config.teacher_key(name)}.store.folder={folder}" for name in stored)]
        config = load_config(named[0], changes, build=False)
    if on is not None:
        from segkd.comparison.fill import fill_on
        from segkd.training.storing import store_root

        # Where the first store lies: logs go beside it.
        blocks = [block.store for block in config.named_teachers().values() if block.store is not None]
        fill_on(on, config, [named[0], *changes], store_root(*blocks[:1]), console)
        return
    from segkd.training.train import fill_stores

    for each in fill_stores(config, console):
        count, size = each.store.size()
        say(console, f"{each.store.folder}: {count} files, {decimal(size)}")


def _refuse(takes: str, misplaced: list[str]) -> None:
    if misplaced:
        raise SegkdError(f"segkd store {takes}, not {' and '.join(misplaced)} (see: segkd store --help)")


def _list(root: Path) -> None:
    from segkd.store.store import stores

    found = stores(root)
    if not found:
        say(console, f"there are no stores in {root}")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("store", no_wrap=True, min_width=max(len(each.store.folder.name) for each in found))
    for heading in ("teacher", "data set"):
        table.add_column(heading, overflow="fold")
    for heading in ("files", "size", "used"):
        table.add_column(heading, justify="right")
    for each in found:
        count, size = each.store.size()
        known = [str(each.about.get(key, "?")) for key in ("teacher", "dataset")]
        table.add_row(each.store.folder.name, *known, str(count), decimal(size), _ago(each.used))
    console.print(table, markup=False)


def _prune(root: Path, named: list[str], unused: int | None) -> None:
    from segkd.store.store import stores

    found = {each.store.folder.name: each for each in stores(root)}
    for name in named:
        if name not in found:
            raise SegkdError(f"there is no store {name!r} in {root}: {nearest(name, found)}")
    if not named and unused is None:
        raise SegkdError("segkd store --prune takes names of stores (see: segkd store --list), or --unused DAYS")
    asked = set(named)
    if unused is not None:
        named = [*named, *(name for name, each in found.items() if each.used >= unused * 86400)]
    for name in dict.fromkeys(named):
        if name not in asked and (user := found[name].store.user()):
            say(console, f"kept {found[name].store.folder}: in use, by {user}")
            continue
        count, size = found[name].store.size()
        found[name].store.remove()
        say(console, f"removed {found[name].store.folder}: {count} files, {decimal(size)}")
    if not named:
        say(console, f"nothing in {root} is unused for {unused} days")


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "now"
