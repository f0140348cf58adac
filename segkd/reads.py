"""What a term reads of student and teachers, and its value on that."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segkd.adapter import Adapter
from segkd.errors import SegkdError, nearest
from segkd.losses._common import resize
from segkd.step import Step
from segkd.term import Term


class Route(NamedTuple):
    """Where a term reads.

    Attributes:
        student: places of the student.
        teacher: pairs of a teacher's name and a place of it.
        lists: whether the loss gets lists of the student and of the teacher.
    """

    student: list[str]
    teacher: list[tuple[str, str]]
    lists: tuple[bool, bool]

    @property
    def teachers(self) -> set[str]:
        """The names of the teachers that it reads."""
        return {name for name, _ in self.teacher}


def route(name: str, term: Term, teachers: Collection[str]) -> Route:
    """Return where a term reads, of these teachers.

    Raises:
        SegkdError: a teacher has another name, or it does not say which of several it reads.
    """
    student, teacher = ([side] if isinstance(side, str) else side for side in (term.student, term.teacher))
    lists = isinstance(term.student, list), isinstance(term.teacher, list)
    pairs = []
    for place in teacher:
        of, _, path = place.rpartition(":")
        default = getattr(term.loss, "reads", "logits")
        if not of and path in teachers and len(teachers) > 1:
            raise SegkdError(f"term {name!r}: {path!r} is a teacher: say what is read of it, '{path}:{default}'")
        path = path or default
        pairs.append((teacher_named(f"term {name!r}", of, teachers, path), path))
    return Route(list(student), pairs, lists)


def teacher_named(where: str, name: str, teachers: Collection[str], place: str = "logits") -> str:
    """Return the name of the teacher that is meant: of the only one where none is said.

    Raises:
        SegkdError: there is no such teacher, or there are several and none is said.
    """
    if name and name not in teachers:
        raise SegkdError(f"{where}: there is no teacher {name!r}, {nearest(name, teachers)}")
    if not name and len(teachers) != 1:
        known = " or ".join(repr(f"{teacher}:{place}") for teacher in teachers)
        raise SegkdError(f"{where} reads one of {len(teachers)} teachers: say which, {known}")
    return name or next(iter(teachers))


def found_at(place: str, found: Mapping[str, Any], side: str, adapter: Adapter) -> Any:
    """Return what was read at a place of one model, see `segkd.taps.Tapped.run`.

    Raises:
        SegkdError: there is nothing, such as auxiliary logits of a model that has none.
    """
    if place in found:
        return found[place]
    if "" in found and place in adapter.outputs:
        return adapter.read(side, place, found[""])
    raise SegkdError(f"a term reads {place!r}, which the {side} did not give: it gave {', '.join(map(repr, found))}")


Found = Mapping[str, Any]


def read(
    name: str, term: Term, where: Route, student: Found, teachers: Mapping[str, Found], adapter: Adapter
) -> list[tuple[Any, Any]]:
    """Return what a term compares, pair by pair; of lists of places one pair of lists.

    Args:
        name: of the term.
        term: the term.
        where: it reads.
        student: what was read of the student, by place.
        teachers: likewise of each teacher.
        adapter: of the distiller.

    Raises:
        SegkdError: nothing is there, or it does not pair.
    """
    s = [found_at(place, student, "student", adapter) for place in where.student]
    t = [found_at(place, teachers[of], "teacher", adapter) for of, place in where.teacher]
    if not any(where.lists):
        return paired(name, term, s[0], t[0])
    return [([_alone(x) for x in s], [_alone(x) for x in t])]


def evaluate(
    name: str,
    term: Term,
    where: Route,
    connectors: nn.ModuleDict,
    adapter: Adapter,
    step: Step,
    student: Found,
    teachers: Mapping[str, Found],
) -> Tensor:
    """Return a term's value, a scalar. Arguments are those of `read`, the connectors by term, and the batch."""
    total = []
    for s, t in read(name, term, where, student, teachers, adapter):
        if any(where.lists):
            if name in connectors:
                s = [connect(x) for connect, x in zip(connectors[name], s, strict=True)]  # type: ignore[call-overload]
            s, t = _sized_lists(name, term, s, t, adapter, step.target)
            total.append(_call(name, term, s if where.lists[0] else s[0], t if where.lists[1] else t[0], step))
            continue
        if name in connectors:
            s = connectors[name](s)
        s, t = _sized(name, term, s, t, adapter, step.target)
        total.append(_call(name, term, s, t, step))
    return torch.stack(total).sum()


def is_map(value: object) -> bool:
    """Return whether this is a tensor (B, C, h, w)."""
    return isinstance(value, Tensor) and value.dim() == 4


def _alone(value: Any) -> Any:
    """Return what a module gave in its only run."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _size(name: str, term: Term, s: Tensor, t: Tensor, adapter: Adapter, target: Any) -> tuple[int, int]:
    if term.size == "label":
        if target is None:
            raise SegkdError(f"term {name!r} is taken at the labels' size, and this batch has no labels")
        return adapter.label_size(target)
    of = t if term.size == "teacher" else s
    return of.shape[2], of.shape[3]


def _sized(name: str, term: Term, s: Any, t: Any, adapter: Adapter, target: Any) -> tuple[Any, Any]:
    """Return both at the term's size, where both are maps."""
    if not (is_map(s) and is_map(t)):
        return s, t
    size = _size(name, term, s, t, adapter, target)
    return resize(s, size), resize(t, size)


def _sized_lists(
    name: str, term: Term, s: list[Any], t: list[Any], adapter: Adapter, target: Any
) -> tuple[list[Any], list[Any]]:
    """Return lists of places at the term's size: pair by pair, or all at one where one side is a single place."""
    if len(s) == len(t):
        pairs = [_sized(name, term, *pair, adapter, target) for pair in zip(s, t, strict=True)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if 1 in (len(s), len(t)) and all(map(is_map, [*s, *t])):
        size = _size(name, term, s[0], t[0], adapter, target)
        return [resize(x, size) for x in s], [resize(x, size) for x in t]
    return s, t


def _call(name: str, term: Term, s: Any, t: Any, step: Step) -> Tensor:
    arguments = (s, t, step.target, step) if getattr(term.loss, "needs_step", False) else (s, t, step.target)
    is_list = isinstance(s, list) or isinstance(t, list)
    if step.target is not None and not is_list:
        return term.loss(*arguments)
    try:
        return term.loss(*arguments)
    except (AttributeError, TypeError) as error:
        kind = getattr(term.loss, "__name__", type(term.loss).__name__)
        if step.target is None and "NoneType" in str(error):
            raise SegkdError(f"term {name!r}: {kind} reads labels, and this batch has none: give a target") from error
        if is_list and "list" in str(error):
            raise SegkdError(f"term {name!r}: {kind} takes no lists: have a term for each pair of places") from error
        raise


def paired(name: str, term: Term, student: Any, teacher: Any) -> list[tuple[Any, Any]]:
    """Return what a term compares, pair by pair, of what it read on the two sides.

    Args:
        name: of the term.
        term: the term.
        student: a mapping, paired with another by the keys that both have; a list, paired by position; or one thing.
        teacher: likewise.

    Raises:
        SegkdError: nothing pairs, or lists differ in length.
    """
    if isinstance(student, Mapping) and isinstance(teacher, Mapping):
        pairs = [(student[key], teacher[key]) for key in student if key in teacher]
        if not pairs:
            keys = [", ".join(map(str, side)) for side in (student, teacher)]
            raise SegkdError(
                f"term {name!r}: the student's {term.student!r} has {keys[0]}, the teacher's {term.teacher!r} "
                f"{keys[1]}: nothing to pair"
            )
        return pairs
    of_student, of_teacher = (
        list(side.values()) if isinstance(side, Mapping) else side if isinstance(side, list) else [side]
        for side in (student, teacher)
    )
    if len(of_student) != len(of_teacher) or not of_student:
        raise SegkdError(
            f"term {name!r} reads {len(of_student)} tensors of the student ({term.student}) and "
            f"{len(of_teacher)} of the teacher ({term.teacher}): they pair one to one"
        )
    return list(zip(of_student, of_teacher, strict=True))
