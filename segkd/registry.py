"""From a name in a config to the thing that it names: one of this package's, or ``package.module:Name`` of the user's.

What this package has is a class with a ``name``, or a file of its own, in a place of its kind (see `KINDS`); what else
is known of it stands in class attributes, which `segkd.declared` reads.
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from segkd.declared import PACKAGE, declared
from segkd.errors import SegkdError, nearest


class Kind(NamedTuple):
    """A kind of thing that can be named: which key of a config names it, and patterns of this package's files of it."""

    noun: str
    plural: str
    key: str
    files: tuple[str, ...]
    given: tuple[str, ...] = ()
    """The arguments that a function of this kind is called with, beside its options."""
    beside: tuple[str, ...] = ()
    """Keys that a config writes among its options, and which are none."""


_LOSSES = ("losses/*.py", "*/methods/*.py")
_CHANNELS = ("student_channels", "teacher_channels")
_WEIGHED = ("student", "teacher", "auxiliary", "target", "progress")
_TASK_LOSSES = ("*/task_losses.py", "*/task_losses/*.py")
_OF_TERMS = ("weight", "share", "student", "teacher", "connector", "size")
KINDS = {
    "loss": Kind("loss", "Losses", "distill.terms.NAME.loss", _LOSSES, ("student", "teacher", "target"), _OF_TERMS),
    "connector": Kind("connector", "Connectors", "distill.terms.NAME.connector", ("connectors.py",), _CHANNELS),
    "schedule": Kind("schedule", "Schedules", "distill.schedule", ("schedules.py",), ("progress",)),
    "weighting": Kind("pixel weighting", "Pixel weightings", "distill.pixel_weighting", ("weighting/*.py",), _WEIGHED),
    "task_loss": Kind("task loss", "Task losses", "task_loss", _TASK_LOSSES, ("logits", "target"), ("scale",)),
    "family": Kind("family", "Families of models", "family, of student and teacher", ("models/*.py",)),
    "builder": Kind("model builder", "Builders of models", "build, of student and teacher", ()),
    "format": Kind("format", "Formats of data", "format, in the description of a data set", ("data/formats/*.py",)),
    "task": Kind("task", "Tasks", "task", ("*/task.py", "training/*/task.py")),
}


@dataclass(frozen=True)
class Thing:
    """What a name stands for.

    Attributes:
        kind: one of `KINDS`.
        name: as a config writes it.
        place: ``module:Name``.
        says: its class attributes: ``title``, ``paper``, ``reads``, ``default_weight`` and so on.
        header: a class or function with the same parameters; None for an object that is used as it is.
    """

    kind: str
    name: str
    place: str
    says: Mapping[str, Any]
    header: Callable[..., Any] | None

    def load(self) -> Any:
        """Return the thing itself."""
        module, _, attribute = self.place.partition(":")
        return getattr(importlib.import_module(module), attribute)

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        return str(self.says.get("title", ""))

    @property
    def is_own(self) -> bool:
        """Whether it is the user's own code."""
        return ":" in self.name

    @property
    def given(self) -> tuple[str, ...]:
        """The names of its first parameters, which are no options."""
        kind = KINDS[self.kind]
        if self.kind != "connector" and (self.header is None or inspect.isclass(self.header) or not self.is_own):
            return ()
        return (*kind.given, "step") if self.says.get("needs_step") else kind.given

    def options(self) -> dict[str, inspect.Parameter]:
        """Return the options that a config can give it, by name."""
        parameters = inspect.signature(self.header).parameters.values() if self.header is not None else ()
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        return {p.name: p for p in named[len(self.given) :] if not p.name.startswith("_")}


def find(kind: str, name: str) -> Any:
    """Return what a name stands for: a class, a function, or an object of the user's.

    Only for names from a config or the command line: nothing else may name code.

    Args:
        kind: one of `KINDS`.
        name: one of this package's, or ``package.module:Name``.

    Raises:
        SegkdError: there is none (the message has the nearest), or the user's cannot be imported or is not callable.
    """
    return thing(kind, name).load()


def thing(kind: str, name: str) -> Thing:
    """Return what is known of the thing of this name; the user's own is imported for that. See `find`."""
    if ":" in name:
        return _own(kind, name)
    known = things(kind)
    if name not in known:
        raise SegkdError(f"there is no {KINDS[kind].noun} {name!r}, {nearest(name, known)}")
    return known[name]


@functools.cache
def things(kind: str) -> dict[str, Thing]:
    """Return all of this package's of a kind, by name in alphabetical order, without importing them."""
    found = {}
    for path in dict.fromkeys(path for pattern in KINDS[kind].files for path in sorted(PACKAGE.glob(pattern))):
        for name, declaration in declared(path, headers=bool(KINDS[kind].given)).items():
            found[name] = Thing(kind, name, *declaration)
    return dict(sorted(found.items()))


# What the user names.

_SAYS = (
    *("title", "paper", "reads", "takes", "default_weight", "normalization", "tasks"),
    *("trains", "published", "any_channels", "needs_step", "needs_live", "needs_image_grad"),
)
_folders: list[str] = []


def look_in(*folders: str | Path) -> None:
    """Look for modules that a config names in these folders too, after the working directory."""
    for folder in folders:
        if (path := str(Path(folder).expanduser().resolve())) not in _folders:
            _folders.append(path)


def own_name(kind: str, name: str) -> tuple[str, str]:
    """Return module and attribute of ``package.module:Name``; raises a SegkdError where it is not of that form."""
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (attribute, *module.split("."))):
        raise SegkdError(f"the {KINDS[kind].noun} {name!r}: one of your own is named package.module:Name")
    return module, attribute


def _own(kind: str, name: str) -> Thing:
    module, attribute = own_name(kind, name)
    where = f"the {KINDS[kind].noun} {name!r}"
    # First on the path, as with `python -m`, and for good, since what it names may import more when it is called.
    places = [str(Path.cwd()), *_folders]
    sys.path[:0] = [place for place in places if place not in sys.path]
    importlib.invalidate_caches()
    try:
        imported = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            hint = nearest(error.name, [path.stem for place in places for path in Path(place).glob("*.py")])
            hint = f"; {hint}" if hint.startswith("did you mean") else ""
            raise SegkdError(
                f"{where}: there is no module {error.name!r} in {', '.join(places)}, nor installed{hint}"
            ) from None
        raise SegkdError(f"{where}: importing {module} ended with {said(error)}") from error
    if not hasattr(imported, attribute):
        names = [key for key, value in vars(imported).items() if callable(value) and not key.startswith("_")]
        raise SegkdError(f"{where}: {module} has no {attribute!r}, {nearest(attribute, names)}")
    found = getattr(imported, attribute)
    if not callable(found):
        raise SegkdError(f"{where} is of type {type(found).__name__}: neither a class nor a function")
    says = {key: getattr(found, key) for key in _SAYS if hasattr(found, key)}
    return Thing(kind, name, name, says, found if _is_made(found) else None)


def _is_made(found: Any) -> bool:
    """Return whether options can make something of it: a class or function whose parameters are known."""
    try:
        inspect.signature(found)
    except (ValueError, TypeError):
        return False
    return inspect.isclass(found) or inspect.isroutine(found)


def said(error: BaseException) -> str:
    """Return an error of the user's code in one line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
