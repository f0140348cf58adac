"""Which of a teacher's classes is which of the student's: found by their names, or said in a config."""

import re
from collections.abc import Mapping, Sequence

from segkd.errors import SegkdError, nearest
from segkd.training.options import as_yaml


def match_classes(
    what: str,
    key: str,
    theirs: Sequence[str],
    ours: Sequence[str],
    said: Sequence[int | None] | Mapping[str, str | None] | None,
    partial: bool = False,
) -> list[int | None] | None:
    """Return the student class of each teacher class (None for none); just None where both lists are the same.

    Classes match where their names do, ignoring case, spaces, ``_`` and ``-``. ``said``, the config's value of ``key``,
    settles the rest: a list with an entry for each of the teacher's, or a mapping by name. With ``partial`` a class of
    the student may be left without any.

    Raises:
        SegkdError: a teacher class has no counterpart and is not said to have none (the message holds the map to fill
            in, as YAML); a class of the student is left without any; or the config names a class that does not exist.
    """
    if isinstance(said, Sequence):
        if len(said) != len(theirs):
            raise SegkdError(f"{what} has {len(theirs)} classes, {key} {len(said)} entries")
        return list(said)
    if said is None and list(theirs) == list(ours):
        return None
    known = {_plain(name): place for place, name in enumerate(ours)}
    found: dict[str, int | None] = {name: known[_plain(name)] for name in theirs if _plain(name) in known}
    for name, of_student in (said or {}).items():
        own = next((each for each in theirs if _plain(each) == _plain(name)), None)
        if own is None:
            raise SegkdError(f"{key}: {what} has no class {name!r}, {nearest(name, theirs)}")
        if of_student is not None and _plain(of_student) not in known:
            raise SegkdError(f"{key}.{name}: the student has no class {of_student!r}, {nearest(of_student, ours)}")
        found[own] = None if of_student is None else known[_plain(of_student)]
    unknown = [name for name in theirs if name not in found]
    lacking = [] if partial else [name for place, name in enumerate(ours) if place not in found.values()]
    if unknown or lacking:
        problems = [f"{_listed(unknown)} of it are none of the student's"] if unknown else []
        problems += [f"none of it is the student's {_listed(lacking)}"] if lacking else []
        fill = as_yaml({**(said or {}), **dict.fromkeys(unknown)})
        raise SegkdError(
            f"{what} has {len(theirs)} classes, the student {len(ours)} {_listed(ours)}: {'; '.join(problems)}; fill "
            f"in the student's class, or null for none: {key}: {fill}"
        )
    return [found[name] for name in theirs]


def check_same(what: str, theirs: Sequence[str], ours: Sequence[str], way_out: str) -> None:
    """Raise a SegkdError that shows both lists unless a teacher's classes are the student's, in their order."""
    if list(theirs) == list(ours):
        return
    place = next((n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    raise SegkdError(
        f"{what} has {len(theirs)} classes {_listed(theirs)}, the student {len(ours)} {_listed(ours)}; the first that "
        f"differs is number {place}: {way_out}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _listed(names: Sequence[str]) -> str:
    return f"[{', '.join(names[:25])}{', ...' if len(names) > 25 else ''}]"
