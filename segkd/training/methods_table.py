"""The table of all methods and their sections on the page of methods, made of what their classes say: `COMMAND`."""

import re
import sys
from pathlib import Path

from segkd.errors import SegkdError
from segkd.registry import Thing
from segkd.training.methods_sections import heading, is_of_detection, methods, owners_of, sections
from segkd.training.options import about

COMMAND = "python -m segkd.training.methods_table docs/methods.md benchmarks/results/losses.md"
BEGIN = f"<!-- Written by `{COMMAND}`: change the classes, not what follows. -->"
END = "<!-- What is written by hand goes on here. -->"
HEAD = ("method", "in a config", "reads", "needs", "store", "trains along", "memory", "published gain", "our gain")


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
    is_live = says.get("needs_live", False)
    return (
        f"[{heading(method)}](#{heading(method).lower()})",
        f"`{method.name}`",
        reads,
        ", ".join(filter(None, [target, "a live teacher" * is_live])),
        says.get("keeps") or ("no" if is_live or is_of_detection(method) else "yes"),
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


if __name__ == "__main__":
    of_methods, of_costs = map(Path, sys.argv[1:])
    written = with_methods(of_methods.read_text(encoding="utf-8"), of_costs.read_text(encoding="utf-8"))
    of_methods.write_text(written, encoding="utf-8")
