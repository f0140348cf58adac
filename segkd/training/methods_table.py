"""The table of all methods on the page of methods, from what their classes say and what was measured: `COMMAND`."""

import re
import sys
from pathlib import Path

from segkd.errors import SegkdError
from segkd.registry import Thing, things
from segkd.training.options import about

COMMAND = "python -m segkd.training.methods_table docs/methods.md benchmarks/results/losses.md"
BEGIN = f"<!-- Written by `{COMMAND}`: change the classes, not this table. -->"
END = "<!-- The table ends here. -->"
HEAD = ("method", "in a config", "reads", "needs", "store", "trains along", "memory", "published gain", "our gain")


def with_table(page: str, costs: str) -> str:
    """Return the page with the table between its two comments made anew.

    Losses on logits come first, then those on features, then detection's. Each has a link to the first section with an
    example of it, and its gain here from the page's rows ``| data | method | gain |`` of that section's name.

    Args:
        page: the page of methods.
        costs: what ``benchmarks/losses.py`` wrote.

    Raises:
        SegkdError: the page lacks the comments, or a section with an example of a method.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SegkdError(f"the page of methods has no {END if begin else BEGIN}")
    methods = sorted([*things("loss").values(), *things("weighting").values()], key=_group)
    rows = [HEAD, ("---",) * len(HEAD), *(_row(method, after, costs) for method in methods)]
    return "\n".join([before + begin, "", *(f"| {' | '.join(row)} |" for row in rows), "", end + after])


def _group(method: Thing) -> int:
    """Return 0 for what reads logits, 1 for features, 2 for what only detectors have."""
    return 2 if _is_of_detection(method) else 0 if about(method)["reads"].startswith("logits") else 1


def _is_of_detection(method: Thing) -> bool:
    return method.place.startswith("segkd.detection.")


def _row(method: Thing, page: str, costs: str) -> tuple[str, ...]:
    heading, says = _heading(method, page), method.says
    reads, target = re.fullmatch(r"(.+?)(?:, and (labels|boxes))?", about(method)["reads"]).groups("")  # type: ignore[union-attr]
    is_live = says.get("needs_live", False)
    return (
        f"[{heading}](#{re.sub(r'[^a-z0-9 -]', '', heading.lower()).replace(' ', '-')})",
        f"`{method.name}`",
        reads,
        ", ".join(filter(None, [target, "a live teacher" * is_live])),
        says.get("keeps") or ("no" if is_live or _is_of_detection(method) else "yes"),
        says.get("trains", ""),
        _memory(method.name, costs),
        says.get("published", ""),
        _gain(heading, page),
    )


def _heading(method: Thing, page: str) -> str:
    """Return the heading of the first section with an example of a method."""
    heading, is_code = "", False
    for line in page.splitlines():
        is_code = is_code != line.startswith("```")
        if not is_code and (found := re.fullmatch(r"##+ (.+)", line)):
            heading = found[1]
        elif is_code and re.search(rf"(loss|pixel_weighting): {{?{method.name}\b", line):
            return heading
    raise SegkdError(f"the page of methods has no section with an example of the {method.kind} {method.name!r}")


def _gain(heading: str, page: str) -> str:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", page, flags=re.MULTILINE)
    return "; ".join(f"{data}: {gain}" for data, method, gain in rows if method.lower() == heading.lower())


def _memory(name: str, costs: str) -> str:
    """Return the peak where a loss was measured first."""
    rows = (line.strip("| ").split(" | ") for line in costs.splitlines())
    return next((f"{row[3]} MiB at {row[1]}" for row in rows if row[0] == f"`{name}`" and len(row) == 7), "")


if __name__ == "__main__":
    of_methods, of_costs = map(Path, sys.argv[1:])
    table = with_table(of_methods.read_text(encoding="utf-8"), of_costs.read_text(encoding="utf-8"))
    of_methods.write_text(table, encoding="utf-8")
