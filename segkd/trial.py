"""Running both models once when a distiller is made: without a trace in them, to see whether what terms read fits."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.term import Term

_SCORES = ("logits", "aux")
"""What holds one channel for each class."""


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run what is inside in eval mode, so that no running statistic moves; then set modes and random numbers back."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    model.eval()
    try:
        with torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for module, training in modes:
            module.training = training


def is_map(value: object) -> bool:
    """Return whether this is a tensor (B, C, h, w)."""
    return isinstance(value, Tensor) and value.dim() == 4


def check_maps(name: str, term: Term, pairs: Iterable[tuple[object, object]]) -> None:
    """Raise where a term that compares maps reads a tensor that is none, such as the tokens (B, N, C) of a transformer.

    Those are terms with a connector and the losses of this package; what one's own loss takes is not known.
    """
    if not isinstance(term.connector, str) and not type(term.loss).__module__.startswith("segkd.losses"):
        return
    for pair in pairs:
        for side, path, value in zip(("student", "teacher"), (term.student, term.teacher), pair, strict=True):
            if isinstance(value, Tensor) and value.dim() != 4:
                raise SegkdError(
                    f"term {name!r}: the {side}'s module {path!r} gives {tuple(value.shape)}, not a map (B, C, H, W): "
                    "read a module whose output is one"
                )


def check_channels(name: str, term: Term, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Raise unless the maps that a term without connector compares have the same channels, pair by pair."""
    for s, t in pairs:
        if term.student in _SCORES and term.teacher in _SCORES:
            check_classes(f"term {name!r}", s, t)
        elif s.shape[1] != t.shape[1]:
            raise SegkdError(
                f"term {name!r}: the student's {term.student!r} has {s.shape[1]} channels, the teacher's "
                f"{term.teacher!r} has {t.shape[1]}: give connector='conv1x1'"
            )


def check_classes(where: str, student: Tensor, teacher: Tensor) -> None:
    """Raise unless both logits (B, C, h, w), the teacher's in the student's classes, have the same classes."""
    if student.shape[1] != teacher.shape[1]:
        raise SegkdError(
            f"{where}: the student has {student.shape[1]} classes, the teacher {teacher.shape[1]}: give "
            "Adapter(class_map=...), the student class of each teacher class"
        )
