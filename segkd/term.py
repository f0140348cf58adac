"""A term: a loss, what it reads on each side, its weight and its connector."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from segkd.errors import SegkdError, nearest

if TYPE_CHECKING:  # a config is checked before torch is loaded
    from torch import Tensor, nn

Size = Literal["teacher", "student", "label"]


@dataclass
class Term:
    """One distillation term of a `Distiller`.

    Args:
        loss: called ``loss(student, teacher, target)``, returns a scalar. See `segkd.losses`. One that compares maps of
            different channels has an attribute ``any_channels = True``: it then needs no connector for them. One that
            reads something else than logits unless told otherwise names it in an attribute ``reads``.
        weight: multiplies the loss, at least 0.
        student: what it reads of the student: ``"logits"``, ``"aux"`` (the auxiliary head's logits), another of the
            adapter's ``outputs``, or a module path such as ``"encoder.layer4"``, whose output it takes. Empty,
            as by default: what the loss says it reads, else the logits.
        teacher: the same for the teacher.
        connector: maps the student's features to the teacher's channels: ``"conv1x1"``, a module, or None. Its
            parameters are trained: they are in ``distiller.parameters()``. Several maps of a term share it.
        size: the size both are resized to, bilinearly with align_corners=False, when they differ: the ``"teacher"``'s,
            the ``"student"``'s or the ``"label"``'s.

    Raises:
        SegkdError: the weight is negative or not finite, or the size does not exist.
    """

    loss: "Callable[..., Tensor]"
    weight: float = 1.0
    student: str = ""
    teacher: str = ""
    connector: "str | nn.Module | None" = None
    size: Size = "teacher"

    def __post_init__(self) -> None:
        if isinstance(self.loss, type):
            raise SegkdError(f"a term's loss must be an instance, got the class: write {self.loss.__name__}()")
        if not callable(self.loss):
            raise SegkdError(f"a term's loss must be callable, got {type(self.loss).__name__}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise SegkdError(f"a term's weight must be finite and at least 0, got {self.weight}")
        self.student = self.student or getattr(self.loss, "reads", "logits")
        self.teacher = self.teacher or getattr(self.loss, "reads", "logits")
        if self.size not in get_args(Size):
            raise SegkdError(f"a term cannot be sized to {self.size!r}, {nearest(self.size, get_args(Size))}")


def named_terms(terms: Mapping[str, Term] | Iterable[tuple[str, Term]]) -> dict[str, Term]:
    """Return the terms by name, in their order.

    Args:
        terms: a mapping, or (name, term) pairs.

    Raises:
        SegkdError: a name is used twice, is ``"task"`` or cannot name a module; or something is no `Term`.
    """
    from torch import nn

    pairs = list(terms.items() if isinstance(terms, Mapping) else terms)
    named: dict[str, Term] = {}
    for name, term in pairs:
        if name in named:
            raise SegkdError(f"the term name {name!r} is used twice")
        if name == "task":
            raise SegkdError("the term name 'task' is the task loss's own: choose another")
        if not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise SegkdError(
                f"the term name {name!r} must be an identifier that is no attribute of torch.nn.ModuleDict"
            )
        if not isinstance(term, Term):
            raise SegkdError(f"term {name!r} must be a segkd.Term, got {type(term).__name__}")
        named[name] = term
    return named


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
