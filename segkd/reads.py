"""What a term reads of student and teachers, and the value of its loss."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from segkd.adapter import Adapter
from segkd.errors import SegkdError, nearest
from segkd.losses._common import resize
from segkd.outputs import is_map
from segkd.step import Step
from segkd.term import Term
from segkd.upsampling import NATIVE

Found = Mapping[str, Any]
"""What was read of a model, by place; its output is at ``""``."""


class Route(NamedTuple):
    """The places that a term reads."""

    student: list[str]
    teacher: list[tuple[str, str]]
    """Pairs of a teacher's name and a place in it."""
    lists: tuple[bool, bool]
    """Whether the loss gets a list of the student's values, and one of the teacher's."""

    @property
    def teachers(self) -> set[str]:
        """The names of the teachers that it reads."""
        return {name for name, _ in self.teacher}


def route(name: str, term: Term, teachers: Collection[str]) -> Route:
    """Return the places that a term reads, those of teachers with the teacher's name; raise where that is unclear."""
    student, teacher = ([side] if isinstance(side, str) else side for side in (term.student, term.teacher))
    pairs = []
    for place in teacher:
        of, _, path = place.rpartition(":")
        default = getattr(term.loss, "reads", "logits")
        if not of and path in teachers and len(teachers) > 1:
            raise SegkdError(f"term {name!r}: {path!r} is a teacher: say what is read of it, '{path}:{default}'")
        path = NATIVE if term.size == "native" else path or default
        pairs.append((teacher_named(f"term {name!r}", of, teachers, path), path))
    student = [NATIVE] if term.size == "native" else student
    return Route(list(student), pairs, (isinstance(term.student, list), isinstance(term.teacher, list)))


def teacher_named(where: str, name: str, teachers: Collection[str], place: str = "logits") -> str:
    """Return the name of the teacher that is meant; an empty name means the only one."""
    if name and name not in teachers:
        raise SegkdError(f"{where}: there is no teacher {name!r}, {nearest(name, teachers)}")
    if not name and len(teachers) != 1:
        known = " or ".join(repr(f"{teacher}:{place}") for teacher in teachers)
        raise SegkdError(f"{where} reads one of {len(teachers)} teachers: say which, {known}")
    return name or next(iter(teachers))


def read(
    name: str, term: Term, where: Route, student: Found, teachers: Mapping[str, Found], adapter: Adapter
) -> list[tuple[list[Any], list[Any]]]:
    """Return what a term compares: a pair of lists of one for each pair of maps, or one pair of lists of places."""
    found = [(place, "student", student) for place in where.student]
    found += [(place, "teacher", teachers[of]) for of, place in where.teacher]
    values = []
    for place, side, given in found:
        if place in given:
            values.append(given[place])
        elif "" in given and place in adapter.outputs:
            values.append(adapter.read(side, place, given[""]))
        else:
            gave = ", ".join(map(repr, given))
            raise SegkdError(f"a term reads {place!r}, which the {side} did not give: it gave {gave}")
    if any(where.lists):
        # A module that ran once gives its tensor itself, no list of one.
        values = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in values]
        return [(values[: len(where.student)], values[len(where.student) :])]
    of_student, of_teacher = values
    if isinstance(of_student, Mapping) and isinstance(of_teacher, Mapping):
        common = [key for key in of_student if key in of_teacher]
        if not common:
            keys = [", ".join(map(str, side)) for side in values]
            raise SegkdError(
                f"term {name!r}: the student's {term.student!r} has {keys[0]}, the teacher's {term.teacher!r} "
                f"{keys[1]}: nothing to pair"
            )
        if (choose := getattr(term.loss, "choose_levels", None)) is not None:
            common = choose(common)
        return [([of_student[key]], [of_teacher[key]]) for key in common]
    s, t = (list(v.values()) if isinstance(v, Mapping) else v if isinstance(v, list) else [v] for v in values)
    if len(s) != len(t) or not s:
        raise SegkdError(
            f"term {name!r} reads {len(s)} tensors of the student ({term.student}) and "
            f"{len(t)} of the teacher ({term.teacher}): they pair one to one"
        )
    return [([x], [y]) for x, y in zip(s, t, strict=True)]


def calls(term: Term, where: Route, pairs: list[tuple[list[Any], list[Any]]]) -> list[tuple[Any, Any]]:
    """Return the arguments of a loss's calls: one call for each pair of maps, or one with lists if it takes those."""
    if getattr(term.loss, "takes_lists", False) and not any(where.lists):
        return [([x for s, _ in pairs for x in s], [x for _, t in pairs for x in t])]
    return [(s if where.lists[0] else s[0], t if where.lists[1] else t[0]) for s, t in pairs]


def evaluate(
    terms: Mapping[str, Term],
    routes: Mapping[str, Route],
    connectors: nn.ModuleDict,
    adapter: Adapter,
    step: Step,
    student: Found,
    teachers: Mapping[str, Found],
) -> dict[str, Tensor]:
    """Return each term's unweighted value, a scalar: first all read what they compare, then the losses run."""
    compared: dict[str, list[tuple[Any, Any]]] = {}
    for name, term in terms.items():
        where, pairs = routes[name], []
        for s, t in read(name, term, where, student, teachers, adapter):
            if name in connectors:
                each: Any = connectors[name] if any(where.lists) else [connectors[name]]  # lists: one for each pair
                s = [connect(x) for connect, x in zip(each, s, strict=True)]
            pairs.append(sized(name, term, s, t, adapter, step.target))
        compared[name] = calls(term, where, pairs)
    values = {}
    for name, term in terms.items():
        further = (step.target, step) if getattr(term.loss, "needs_step", False) else (step.target,)
        total = []
        for s, t in compared.pop(name):
            try:
                value = term.loss(s, t, *further)
            except (AttributeError, TypeError) as error:
                kind = getattr(term.loss, "__name__", type(term.loss).__name__)
                if step.target is None and "NoneType" in str(error):
                    says = "reads labels, and this batch has none: give a target"
                elif any(routes[name].lists) and "list" in str(error):
                    says = "takes no lists: have a term for each pair of places"
                else:
                    raise
                raise SegkdError(f"term {name!r}: {kind} {says}") from error
            if not isinstance(value, Tensor) or value.numel() != 1:
                given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise SegkdError(f"term {name!r}: its loss must return a tensor of one value, got {given}")
            total.append(value.reshape(()))
        values[name] = torch.stack(total).sum()
    return values


def sized(
    name: str, term: Term, s: list[Any], t: list[Any], adapter: Adapter, target: Any
) -> tuple[list[Any], list[Any]]:
    """Return both lists resized to the term's size: pair by pair, or all to one size where one side has one place."""
    if len(s) == len(t):
        pairs = [(x, y) if is_map(x) and is_map(y) else None for x, y in zip(s, t, strict=True)]
    elif 1 in (len(s), len(t)) and all(map(is_map, [*s, *t])):
        pairs = [(s[0], t[0])] * max(len(s), len(t))
    else:
        return s, t
    sizes = [None if pair is None else pair[term.size in ("teacher", "native")].shape[2:] for pair in pairs]
    if term.size == "label" and any(sizes):
        if target is None:
            raise SegkdError(f"term {name!r} is taken at the labels' size, and this batch has no labels")
        sizes = [size and adapter.label_size(target) for size in sizes]
    s, t = ([x if to is None else resize(x, to) for x, to in zip(side, sizes, strict=False)] for side in (s, t))
    return s, t
