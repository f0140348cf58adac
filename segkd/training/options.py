"""The options that a config gives to what it names: checked against its parameters, and used to make it."""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import yaml
from pydantic import (
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    TypeAdapter,
    ValidationError,
    create_model,
)

from segkd.common.plain import Checked, complaint
from segkd.errors import SegkdError, nearest
from segkd.registry import KINDS, Thing, said, thing


def check(thing: Thing, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options converted to the types of a thing's parameters; raise a SegkdError where one does not fit."""
    where, known = f"{KINDS[thing.kind].noun} {thing.name!r}", thing.options()
    if options and thing.header is None:
        raise SegkdError(f"{where} is an object, used as it is: it takes no options, got {', '.join(options)}")
    parameters = inspect.signature(thing.header).parameters.values() if thing.header is not None else ()
    kinds = {parameter.kind for parameter in parameters}
    # Constructors of torch's modules are written with *args and **kwargs, but take no other options.
    is_open = inspect.Parameter.VAR_KEYWORD in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds
    for key in options:
        if key not in known and not is_open:
            beside = [name for name in KINDS[thing.kind].beside if name != key]
            meant = difflib.get_close_matches(key, beside, cutoff=0.7)
            raise SegkdError(f"{where} has no option {key!r}, {nearest(key, [*known, *meant])}")
    types = hints(thing.header)
    fields: dict[str, Any] = {
        key: (_checkable(types.get(key, Any)), ... if option.default is option.empty else option.default)
        for key, option in known.items()
    }
    model = create_model("Options", __base__=Checked, **fields)
    try:
        return {**options, **model.model_validate(dict(options)).model_dump(exclude_unset=True)}
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part == first["loc"][0])
        if first["type"] == "missing" and len(first["loc"]) == 1:
            raise SegkdError(f"{where}: its option {option!r} is missing") from None
        raise SegkdError(f"{where}, option {option!r}: {complaint(first)}") from None


def hints(header: Callable[..., Any] | None) -> dict[str, Any]:
    """Return the types of the annotated parameters; none where they cannot be told."""
    try:
        return get_type_hints(header.__init__ if inspect.isclass(header) else header)
    except Exception:  # the user's annotations may be any text
        return {}


def _checkable(hint: Any) -> Any:
    """Return a type, or ``Any`` for one that no value in a config can have, such as a torch module."""
    try:
        TypeAdapter(hint)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation):
        return Any
    return hint


def make(kind: str, name: str, options: Mapping[str, Any]) -> Any:
    """Return what a config means by a name and its options.

    A class is made with the options; a function is returned with the options bound as keywords; any other object of the
    user's is returned as it is. A connector, class or function, is bound too: the numbers of channels come later.

    Raises:
        SegkdError: there is none of this name, an option does not fit, or the user's code raises an error.
    """
    known = thing(kind, name)
    checked, found = check(known, options), known.load()
    if known.header is None:
        return found
    where = f"the {KINDS[kind].noun} {name!r}"
    if known.given:
        try:
            inspect.signature(known.header).bind(*known.given, **checked)
        except TypeError as error:
            called = f"is called with ({', '.join(known.given)}) and its options"
            raise SegkdError(f"{where} {called}: {error}") from None
        # With the function's own attributes, such as what it reads.
        return functools.update_wrapper(functools.partial(found, **checked), found) if checked else found
    try:
        return found(**checked)
    except Exception as error:
        if isinstance(error, SegkdError) or not known.is_own:
            raise
        raise SegkdError(f"{where} cannot be made: {said(error)}") from error


def about(thing: Thing) -> dict[str, str]:
    """Return what lists say of a thing, by its label: what it reads, its options, its weight, its paper."""
    says = thing.says
    weight = f"{says['default_weight']:g}" if "default_weight" in says else ""
    rows = {
        "reads": says.get("takes") or (says.get("reads") if thing.kind in ("loss", "weighting") else None),
        "options": defaults(thing) if KINDS[thing.kind].given else None,
        "weight": f"{weight}: {says['normalization']}" if says.get("normalization") else weight,
        "trains": says.get("trains"),
        "published": says.get("published"),
        "for": ", ".join(says.get("tasks") or ()),
        "needs": f"pip install 'segkd[{says['extra']}]'" if says.get("extra") else None,
        "paper": says.get("paper"),
    }
    return {label: str(text) for label, text in rows.items() if text}


def defaults(thing: Thing) -> str:
    """Return a thing's options with their defaults, as a config writes them; an option alone must be given."""
    return ", ".join(
        key if option.default is option.empty else f"{key}: {as_yaml(option.default)}"
        for key, option in thing.options().items()
    )


def as_yaml(value: Any) -> str:
    """Return a value as a config writes it, in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, sort_keys=False, allow_unicode=True)
    return text.removesuffix("...\n").strip()
