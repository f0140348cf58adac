"""What a loss of this package is: a module that states its options, and what `segkd methods` says of it, once."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self, dataclass_transform

from torch import nn


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
        self.check()

    def check(self) -> None:
        """Look at the options; what is trained, such as a layer of its own, is made here too.

        Raises:
            SegkdError: one is out of its range.
        """

    def extra_repr(self) -> str:
        """Show the options in ``print``."""
        return ", ".join(f"{option.name}={getattr(self, option.name)!r}" for option in fields(self))  # type: ignore[arg-type]
