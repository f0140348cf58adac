"""The page of methods, made of what their classes say: the table of all, and a section for each class: `COMMAND`."""

import importlib
import re
import sys
from pathlib import Path

from segkd.errors import SegkdError
from segkd.registry import KINDS, Thing, things
from segkd.training import docstrings
from segkd.training.options import about
from segkd.training.reference import SECTIONED, options_of, table

COMMAND = "python -m segkd.training.methods_table docs/methods.md benchmarks/results/losses.md"
BEGIN = f"<!-- Written by `{COMMAND}`: change the classes, not what follows. -->"
END = "<!-- What is written by hand goes on here. -->"
HEAD = ("method", "in a config", "reads", "needs", "store", "trains along", "memory", "published gain", "our gain")
GROUPS = ("Losses on logits", "Losses on features", "Losses of detectors", "Pixel weightings", "Schedules")


def with_methods(page: str, costs: str) -> str:
    """Return the page with the text between its two comments generated anew: the table, then the sections.

    A method's gain in our runs is read from the page's rows ``| data | method | gain |`` of its class or its bases.

    Args:
        page: the page of methods.
        costs: what ``benchmarks/losses.py`` wrote.

    Raises:
        SegkdError: the page lacks the comments, or a class an example of a config.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SegkdError(f"the page of methods has no {END if begin else BEGIN}")
    compared = [method for method in methods() if method.kind != "schedule"]
    rows = [HEAD, ("---",) * len(HEAD), *(_row(method, after, costs) for method in compared)]
    return "\n".join([before + begin, "", *(f"| {' | '.join(row)} |" for row in rows), "", *sections(), end + after])


def _row(method: Thing, page: str, costs: str) -> tuple[str, ...]:
    says = method.says
    reads, target = re.fullmatch(r"(.+?)(?:, and (labels|boxes))?", about(method)["reads"]).groups("")  # type: ignore[union-attr]
    is_live, of_detection = says.get("needs_live", False), is_of_detection(method)
    return (
        f"[{heading(method)}](#{heading(method).lower()})",
        f"`{method.name}`",
        reads,
        ", ".join(filter(None, [target, ("the teacher's head" if of_detection else "a live teacher") * is_live])),
        says.get("keeps") or ("FPN maps" if of_detection else "no" if is_live else "yes"),
        says.get("trains", ""),
        _memory(method.name, costs),
        says.get("published", ""),
        _gain({owner.__name__.lower() for owner in owners_of(method)}, page),
    )


def _gain(names: set[str], page: str) -> str:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", page, flags=re.MULTILINE)
    return "; ".join(f"{data}: {gain}" for data, method, gain in rows if method.replace(" ", "").lower() in names)


def _memory(name: str, costs: str) -> str:
    """Return a loss's peak memory from the first row in which it was measured; empty without one."""
    rows = (line.strip("| ").split(" | ") for line in costs.splitlines())
    return next((f"{row[3]} MiB at {row[1]}" for row in rows if row[0] == f"`{name}`" and len(row) == 7), "")


def methods() -> list[Thing]:
    """Return all methods that have a section, in their order on the page."""
    found = [method for kind in SECTIONED for method in things(kind).values()]
    return sorted(found, key=lambda method: GROUPS.index(_group(method)))


def heading(method: Thing) -> str:
    """Return the title of a method's section: its class's name."""
    return method.place.partition(":")[2]


def is_of_detection(method: Thing) -> bool:
    """Return whether only detectors have what it reads."""
    return method.place.startswith("segkd.detection.")


def sections() -> list[str]:
    """Return the lines of all sections.

    Raises:
        SegkdError: a docstring has no example of a config.
    """
    owners = {owner.__name__: (owner, method) for method in methods() for owner in owners_of(method)}
    anchors = {name: name.lower() for name in owners}
    lines: list[str] = []
    for owner, method in owners.values():
        if f"## {_group(method)}" not in lines:
            lines += [f"## {_group(method)}", ""]
        lines += _section(owner, method, anchors)
    return lines


def _group(method: Thing) -> str:
    """Return the heading above a method's section: each is one of `GROUPS`."""
    if method.kind != "loss":
        return KINDS[method.kind].plural
    if is_of_detection(method):
        return GROUPS[2]
    return GROUPS[0] if about(method)["reads"].startswith("logits") else GROUPS[1]


def owners_of(method: Thing) -> list[type]:
    """Return a method's class, after its bases in the same file, which have sections too."""
    build = method.load()
    return [owner for owner in build.__mro__[::-1] if owner.__module__ == build.__module__]


def _section(owner: type, method: Thing, anchors: dict[str, str]) -> list[str]:
    said, is_method = docstrings.parts(owner), owner.__name__ == heading(method)
    if is_method and "Config" not in said:
        raise SegkdError(f"the docstring of the {KINDS[method.kind].noun} {method.name!r} has no example of a config")
    facts = about(method) if is_method else {}
    named = f", in a config `{method.name}`" if is_method else ""
    reads = [f"{label} {facts[label]}" for label in ("reads", "trains") if label in facts]
    facts["paper"] = " ".join(said.get("Reference", "").split()).rstrip(".")
    bullets = [
        f"- {'; '.join([f'`{_public(owner)}`{named}', *reads])}.",
        *(
            f"- **{label.capitalize()}** {docstrings.marked(facts[label], anchors)}."
            for label in ("weight", "published", "paper")
            if facts.get(label)
        ),
    ]
    own = f"\n{said.get('Args', '')}"
    options = [row for row in options_of(method) if f"\n{row[0].strip('`')}:" in own]
    configs = said["Config"].split("\n---\n") if is_method else []
    return [
        *(f"### {owner.__name__}", ""),
        *(docstrings.prose(said[""], anchors), ""),
        *(*bullets, ""),
        *table(options),
        *(f"```yaml\n{config}\n```\n" for config in configs),
    ]


def _public(owner: type) -> str:
    """Return where a class is imported from: its package if that has it, else its module."""
    package = owner.__module__.rpartition(".")[0]
    has_it = getattr(importlib.import_module(package), owner.__name__, None) is owner
    return f"{package if has_it else owner.__module__}.{owner.__name__}"


if __name__ == "__main__":
    of_methods, of_costs = map(Path, sys.argv[1:])
    written = with_methods(of_methods.read_text(encoding="utf-8"), of_costs.read_text(encoding="utf-8"))
    of_methods.write_text(written, encoding="utf-8")
