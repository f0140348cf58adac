"""What a loss of this package is: a module that states its options, and what `segkd methods` says of it, once."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, ClassVar, Self, dataclass_transform, get_args, get_origin

from torch import nn

from segkd.errors import SegkdError


@dataclass_transform(eq_default=False)
class Loss(nn.Module):
    """A module whose options are annotated fields, as a dataclass's: they are its constructor, attributes and repr.

    A subclass with a ``name`` in a file of this folder can be named in a config; nothing else need know of it. It says
    what it is in class attributes that are literals (they are read without importing the file), looks at its options
    in `check`, and computes a scalar in ``forward(student, teacher, target=None)``.

    Example:
        >>> class Difference(Loss):
        ...     power: float = 2.0
        ...
        ...     def forward(self, student, teacher, target=None):
        ...         return (student - teacher).abs().pow(self.power).mean()
        >>> Difference(power=1.0)
        Difference(power=1.0)
    """

    name: ClassVar[str]
    """What a config calls it."""
    title: ClassVar[str]
    """What it is called in full."""
    paper: ClassVar[str] = ""
    """Such as ``arXiv 1503.02531``."""
    reads: ClassVar[str] = "logits"
    """What a term reads on both sides unless it says otherwise."""
    takes: ClassVar[str] = ""
    """In words what else it may be given; empty for what it reads alone."""
    default_weight: ClassVar[float] = 1.0
    """The published weight, or the one to begin with."""
    normalization: ClassVar[str] = ""
    """What that weight belongs to: how the loss is summed and what it is divided by."""
    trains: ClassVar[str] = ""
    """What of its own it trains along, such as ``1x1 convolution``; empty for nothing."""
    published: ClassVar[str] = ""
    """The gain that its authors report, with data and models, and what else was distilled."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        dataclass(eq=False, repr=False)(cls)

    def __new__(cls, *arguments: Any, **options: Any) -> Self:
        """Make the module that the fields are set on."""
        module = super().__new__(cls)
        nn.Module.__init__(module)
        return module

    def __post_init__(self) -> None:
        for option in fields(self):  # type: ignore[arg-type]
            value = getattr(self, option.name)
            if not _is_of(value, option.type):
                expected = _expected(option.type)
                raise SegkdError(f"{type(self).__name__}: {option.name} must be {expected}, got {value!r}")
        self.check()

    def check(self) -> None:
        """Look at the options; what is trained, such as a layer of its own, is made here too.

        Raises:
            SegkdError: one is out of its range.
        """

    def extra_repr(self) -> str:
        """Show the options in ``print``."""
        return ", ".join(f"{option.name}={getattr(self, option.name)!r}" for option in fields(self))  # type: ignore[arg-type]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name, own in self.named_parameters():
            found = state_dict.get(f"{prefix}{name}")
            if found is not None and found.shape != own.shape:
                raise SegkdError(
                    f"{type(self).__name__}: {prefix}{name} is {tuple(own.shape)}, and what is restored "
                    f"{tuple(found.shape)}: restore it with the options that it was trained with"
                )
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _is_of(value: Any, kind: Any) -> bool:
    """Whether an option is of the kind that its annotation says; of words and others `Loss.check` knows more."""
    several, inner = get_origin(kind), get_args(kind)
    if kind is int or kind is float:
        return hasattr(value, "__index__" if kind is int else "__float__") and not isinstance(value, bool)
    if kind is bool or kind is NoneType:
        return isinstance(value, kind)
    if several is tuple or several is Sequence:
        kinds = inner if several is tuple else inner * len(value) if isinstance(value, Sequence) else ()
        is_list = isinstance(value, Sequence) and not isinstance(value, str) and len(value) == len(kinds)
        return is_list and all(map(_is_of, value, kinds))
    return not inner or NoneType not in inner or any(_is_of(value, each) for each in inner)


def _expected(kind: Any) -> str:
    """Return the words for an annotation."""
    inner = get_args(kind)
    if get_origin(kind) in (tuple, Sequence):
        return f"{'a list' if get_origin(kind) is Sequence else f'{len(inner)} values'}, each {_expected(inner[0])}"
    if inner:
        return " or ".join(map(_expected, inner))
    return {int: "a whole number", float: "a number", bool: "true or false", NoneType: "None"}.get(kind, str(kind))
