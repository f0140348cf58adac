"""A section of the page of methods for each class, made of its docstring and of what it says in class attributes."""

import importlib

from segkd.errors import SegkdError
from segkd.registry import KINDS, Thing, things
from segkd.training import docstrings
from segkd.training.options import about
from segkd.training.reference import SECTIONED, options_of, table

GROUPS = ("Losses on logits", "Losses on features", "Losses of detectors", "Pixel weightings", "Schedules")


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
