"""Teachers: a live model, several as one, stored outputs or given ones; all behind one interface."""

import copy
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from segkd.adapter import Adapter, Live
from segkd.errors import SegkdError, nearest
from segkd.losses._common import full_precision, resize
from segkd.network import Network
from segkd.outputs import read_logits, tensors_of
from segkd.step import Step
from segkd.stored import Entries as Entries
from segkd.stored import Stored as Stored
from segkd.taps import Taps, uncompiled

Shapes = Mapping[str, Any]
"""By place the shape of one image's tensor, such as (C, h, w): a list or mapping of shapes for several tensors, None
where it is not known."""


@runtime_checkable
class Teacher(Protocol):
    """The interface that a distiller reads any teacher by.

    A place is ``"logits"``, ``"aux"``, another of the adapter's outputs, or a module path. A teacher with a live model
    has it as ``module``: the distiller freezes it, sets it to eval mode, and moves it along with ``.to()``.
    """

    def offers(self, reads: Collection[str]) -> Shapes:
        """Return the shapes of what it can give at these places; called once, when the distiller is made.

        Raises:
            SegkdError: it cannot give what is read; the message is one line.
        """
        ...

    def __call__(self, step: Step, reads: Collection[str]) -> Mapping[str, Any]:
        """Return the batch's value at each place: a tensor, a list or mapping of them, or whatever the loss takes.

        Logits are in the student's classes. ``"aux"`` may be left out. An entry ``""`` becomes ``out.teacher``; without
        it that is the whole mapping.
        """
        ...


class Given:
    """A teacher without a model: each step is given its outputs, ``distiller(..., teacher={"logits": ...})``.

    Args:
        shapes: see `Shapes`; needed where a connector or loss is built for the channels, else only checked against.
    """

    def __init__(self, shapes: Shapes | None = None) -> None:
        self.shapes = dict(shapes or {})

    def offers(self, reads: Collection[str]) -> Shapes:
        """Return each place with its shape, None where that is not known: any place can be given."""
        return {place: self.shapes.get(place) for place in reads}

    def __call__(self, step: Step, reads: Collection[str]) -> Mapping[str, Any]:
        """Raise a SegkdError: this step's outputs were not given."""
        raise SegkdError(f"this teacher does not run: give its outputs, teacher={_shown(reads)}")


class Average(nn.Module):
    """Several models as one teacher: its logits are the logarithm of their mean probability.

    Args:
        modules: each returns what `segkd.adapter.read_logits` reads; a `Network`'s logits are mapped to the student's
            classes.
        weights: one for each module, above 0; they are divided by their sum. None: all equal.

    Raises:
        SegkdError: there is no module, or not one weight above 0 for each.
    """

    def __init__(self, modules: Iterable[nn.Module], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.members = nn.ModuleList(modules)
        self.weights = [1.0] * len(self.members) if weights is None else [float(weight) for weight in weights]
        if not self.members:
            raise SegkdError("an average needs one model at least")
        if len(self.weights) != len(self.members) or not all(0 < weight < math.inf for weight in self.weights):
            raise SegkdError(f"an average of {len(self.members)} models has a weight above 0 for each, got {weights}")

    def extra_repr(self) -> str:
        """Return the weights: a stored average's key depends on its ``repr``, and no parameter shows them."""
        return f"weights={self.weights}"

    def forward(self, images: Any) -> Tensor:
        """Return log-probabilities (B, C, h, w), of the first model's size, in float32 also under autocast."""
        mean: Tensor | None = None
        for member, weight in zip(self.members, self.weights, strict=True):
            logits = read_logits(member(images))
            network = uncompiled(member)
            logits = network.map_classes(logits) if isinstance(network, Network) else logits
            with full_precision(logits) as (z,):
                if mean is not None and z.shape[1] != mean.shape[1]:
                    raise SegkdError(f"the models of an average differ in classes: {mean.shape[1]} and {z.shape[1]}")
                z = z if mean is None else resize(z, (mean.shape[2], mean.shape[3]))
                z = z.log_softmax(1) + math.log(weight / sum(self.weights))
                mean = z if mean is None else torch.logaddexp(mean, z)
        assert mean is not None
        return mean


def named_teachers(given: Any, student: nn.Module, adapter: Adapter) -> dict[str, Teacher]:
    """Return the teachers by name, ready to teach; a single one given without a name is called ``"teacher"``."""
    if not isinstance(student, nn.Module):
        raise SegkdError(f"the student must be a torch.nn.Module, got {_kind(student)}")
    is_model = type(given).forward is not nn.Module.forward if isinstance(given, nn.Module) else False
    if isinstance(given, (list, tuple, set, nn.ModuleList)) and not is_model:
        raise SegkdError("several teachers are given by name: {'big': big, 'small': small}, not as a list")
    if isinstance(given, nn.ModuleDict) and not is_model:  # a feature extractor of timm's derives from it too
        given = dict(given.items())
    named = given if isinstance(given, Mapping) else {} if given is None else {"teacher": given}
    teachers: dict[str, Teacher] = {}
    for name, teacher in named.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise SegkdError(f"a teacher's name must be an identifier, got {name!r}")
        if isinstance(teacher, nn.Module) and not isinstance(teacher, Teacher):
            teacher = Live(teacher)
        if not isinstance(teacher, Teacher) or isinstance(teacher, type):
            raise SegkdError(f"a teacher is a module or a segkd.teachers.Teacher, {name!r} is a {_kind(teacher)}")
        module = getattr(teacher, "module", None)
        if isinstance(module, nn.Module):
            theirs = {id(parameter) for parameter in module.parameters()}
            if module is student or any(id(parameter) in theirs for parameter in student.parameters()):
                raise SegkdError("student and teacher share parameters: freezing the teacher would freeze the student")
            module.eval().requires_grad_(False)
        if isinstance(teacher, Live):
            teacher = copy.copy(teacher)  # another distiller may have the same object
            teacher.adapter, teacher.taps, teacher.upsampling = adapter, Taps(teacher.module, ()), None
            teacher.owner = "teacher" if len(named) == 1 else f"teacher {name!r}"
        teachers[name] = teacher
    return teachers


def offered(name: str, teacher: Teacher, reads: Collection[str]) -> Shapes:
    """Return what a teacher offers of these places; raise if it lacks one other than ``"aux"``."""
    offers: Any = teacher.offers(reads)
    offers = offers if isinstance(offers, Mapping) else dict.fromkeys(reads if offers in (None, True) else offers or ())
    for place in reads:
        if place not in offers and place != "aux":
            raise SegkdError(f"the teacher {name!r} does not offer {place!r}: {nearest(place, offers)}")
    return offers


def given_outputs(
    given: Any, teachers: Mapping[str, Teacher], reads: Mapping[str, Collection[str]], shapes: Shapes, images: Any
) -> dict[str, Mapping[str, Any]]:
    """Return the given outputs by teacher, checked against what the terms read; a single one's are by place."""
    if not teachers:
        raise SegkdError("this distiller has no teacher to give the outputs of: make it with segkd.teachers.Given()")
    if not isinstance(given, Mapping):
        raise SegkdError(f"a teacher's outputs are given by place, {{'logits': ...}}, got a {_kind(given)}")
    (first, *others) = teachers
    is_flat = not others and not (set(given) == {first} and isinstance(given[first], Mapping))
    by_name = {first: given} if is_flat else given
    for name, outputs in by_name.items():
        if name not in teachers:
            raise SegkdError(
                f"there is no teacher {name!r}, {nearest(name, teachers)}: outputs of several are given by name, "
                f"teacher={{{first!r}: {_shown(reads[first])}}}"
            )
        whose = "the teacher's given" if is_flat else f"the given teacher {name!r}'s"
        if not isinstance(outputs, Mapping):
            raise SegkdError(f"{whose} outputs must be a mapping of places, got a {_kind(outputs)}")
        for place in reads[name]:
            if place in outputs:
                _check_given(f"{whose} {place!r}", outputs[place], shapes.get(name, {}).get(place), images)
            elif place != "aux":
                raise SegkdError(f"{whose} outputs lack {place!r}: they have {', '.join(map(repr, outputs)) or 'none'}")
    return dict(by_name)


def _check_given(what: str, value: Any, shape: Any, images: Any) -> None:
    """Raise unless a given output has the batch's size and the known number of dimensions and channels."""
    found = tensors_of(value)
    known = list(shape.values()) if isinstance(shape, Mapping) else shape
    expected = known if isinstance(known, list) else [] if known is None else [known]
    if not found:
        raise SegkdError(f"{what} must be a tensor, or a list or mapping of them, got a {_kind(value)}")
    if expected and len(expected) != len(found):
        raise SegkdError(f"{what} must be {len(expected)} tensors, got {len(found)}")
    count = len(images) if isinstance(images, (Tensor, list, tuple)) else found[0].shape[0]
    for x, known in zip(found, expected or [()] * len(found), strict=True):
        if x.dim() < 1 or x.shape[0] != count or (known and (x.dim() - 1, x.shape[1]) != (len(known), known[0])):
            sides = [str(known[0]), *"hw"[: len(known) - 1]] if known else ["..."]
            raise SegkdError(f"{what} must be ({count}, {', '.join(sides)}), got {tuple(x.shape)}")


def _shown(reads: Iterable[str]) -> str:
    return "{" + ", ".join(f"{place!r}: ..." for place in reads) + "}"


def _kind(value: Any) -> str:
    return "class" if isinstance(value, type) else type(value).__name__
