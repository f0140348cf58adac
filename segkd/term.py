"""A term: a loss, what it reads on each side, its weight and its connector."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from segkd.errors import SegkdError, is_number, nearest

if TYPE_CHECKING:  # a config is checked before torch is loaded
    from torch import Tensor

    from segkd.connectors import Connector

Size = Literal["teacher", "student", "label", "native"]


@dataclass
class Term:
    """One distillation term of a `Distiller`.

    Args:
        loss: called ``loss(student, teacher, target)``, returns a scalar; the target is None where no image has labels.
            See `segkd.losses`. Optional attributes: ``reads``: the place it reads unless the term names one, default
            logits; ``any_channels = True``: it compares maps of different channels without a connector;
            ``needs_step = True``: it is called with a `segkd.step.Step` as fourth argument; ``needs_live = True``: it
            runs the teacher's own layers, so stored or given outputs will not do; ``needs_image_grad = True``: the
            step's images require a gradient, and both models' outputs depend on them; ``takes_lists = True``: for a
            place with several maps (a detector's FPN) it gets both lists instead of one call for each pair;
            ``choose_levels(keys)``: a method that returns which maps of such a place it compares, of the keys (an FPN's
            strides) that both sides have; ``gradient_clip``: a training run clips the gradients of the loss's own
            layers to this norm. An optional method ``prepare(student, teacher)`` is called once, when the distiller is
            made, with what it will compare, of one image (maybe of another size, or meta tensors): there a loss makes
            its layers and queues.
        weight: multiplies the loss, at least 0.
        student: the place it reads of the student: ``"logits"``, ``"aux"`` (the auxiliary head's logits), another of
            the adapter's ``outputs``, or the path of a module whose output it takes, such as ``"encoder.layer4"``. With
            a list of places the loss gets a list.
        teacher: the same for the teacher; with several teachers the name comes first: ``"big:logits"``. The places of a
            list may be of different teachers.
        connector: maps the student's features to the teacher's channels: ``"conv1x1"``, another `Connector`, or None.
            Its parameters are trained: they are in ``distiller.parameters()``. Several maps of one place share it; with
            lists of places each pair has its own, made by name or given as a `torch.nn.ModuleList`.
        size: the size that both sides' maps are resized to where they differ, bilinearly with align_corners=False: the
            ``"teacher"``'s, the ``"student"``'s or the ``"label"``'s. Lists are resized pair by pair; where one side is
            a single place, all get one size. ``"native"``, for logits only: they are read before the interpolation
            that a model ends with, if it does, and resized to the teacher's size. This computes less, and changes the
            direction of ICSD's gradient.
        share: replaces the weight: the norm of the term's gradient on the student's parameters is kept at this share of
            the task loss's, at least 0; see `segkd.balance.Balance`.

    Raises:
        SegkdError: the weight or the share is negative or not finite, or both are given; the size does not exist, or a
            place is neither a name nor a list of names.
    """

    loss: "Callable[..., Tensor]"
    weight: float = 1.0
    student: str | list[str] = ""
    teacher: str | list[str] = ""
    connector: "Connector | None" = None
    size: Size = "teacher"
    share: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loss, type):
            raise SegkdError(f"a term's loss must be an instance, got the class: write {self.loss.__name__}()")
        if not callable(self.loss):
            raise SegkdError(f"a term's loss must be callable, got {type(self.loss).__name__}")
        if not (is_number(self.weight) and self.weight >= 0):
            raise SegkdError(f"a term's weight must be finite and at least 0, got {self.weight!r}")
        if self.share is not None:
            if not (is_number(self.share) and self.share >= 0):
                raise SegkdError(f"a term's share must be finite and at least 0, got {self.share!r}")
            if self.weight != 1:
                raise SegkdError(f"a term has a weight or a share, not both: got {self.weight} and {self.share}")
        self.student, self.teacher = self._places(self.student), self._places(self.teacher)
        if self.size not in get_args(Size):
            raise SegkdError(f"a term cannot be sized to {self.size!r}, {nearest(self.size, get_args(Size))}")
        read = [str(place).rpartition(":")[2] for place in (self.student, self.teacher)]
        if self.size == "native" and read != ["logits", "logits"]:
            raise SegkdError(f"size='native' is of logits, and this term reads {self.student!r} and {self.teacher!r}")

    def _places(self, given: Any) -> str | list[str]:
        if isinstance(given, str):
            return given or getattr(self.loss, "reads", "logits")
        if not isinstance(given, Sequence) or not given or not all(isinstance(place, str) and place for place in given):
            raise SegkdError(f"a term reads a place by its name, or a list of them, got {given!r}")
        return list(given)


def named_terms(terms: Mapping[str, Term] | Iterable[tuple[str, Term]]) -> dict[str, Term]:
    """Return the terms by name, in their order."""
    from torch import nn

    named: dict[str, Term] = {}
    try:
        pairs = [(name, term) for name, term in (terms.items() if isinstance(terms, Mapping) else terms)]
    except (TypeError, ValueError):
        raise SegkdError(f"terms are given by name, {{'kd': segkd.Term(...)}}, got {type(terms).__name__}") from None
    for name, term in pairs:
        if name in named:
            raise SegkdError(f"the term name {name!r} is used twice")
        if name == "task":
            raise SegkdError("the term name 'task' is the task loss's own: choose another")
        if not isinstance(name, str) or not name.isidentifier() or hasattr(nn.ModuleDict, name):
            raise SegkdError(
                f"the term name {name!r} must be an identifier that is no attribute of torch.nn.ModuleDict"
            )
        if not isinstance(term, Term):
            raise SegkdError(f"term {name!r} must be a segkd.Term, got {type(term).__name__}")
        named[name] = term
    return named
