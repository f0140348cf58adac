"""What a person wrote, checked by pydantic, and its complaints in plain words."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from segkd.errors import nearest

ReadWhere = Mapping[str, tuple[str, tuple[str, ...]]]
"""Keys that count only where another key has one of some values: key to (the other, its values)."""


class Checked(BaseModel):
    """A block of keys; true and false are no numbers, and every number is finite, also in blocks of free keys."""

    model_config = ConfigDict(allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[info.field_name or ""].annotation
        if block_of(annotation) is None:  # a block has this check of its own
            takes_bool = _mentions(annotation, bool) or _mentions(annotation, Any)
            _check_numbers(value, None if takes_bool else annotation)
        return value


class Block(Checked):
    """A block of a config: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    read_where: ClassVar[ReadWhere] = {}
    """What counts only where another key has some value."""

    def unread(self) -> dict[str, str]:
        """Return the keys that hold another value than their default and do not count, and where they would."""
        found = {}
        for key, (other, values) in self.read_where.items():
            default = type(self).model_fields[key].get_default(call_default_factory=True)
            if getattr(self, key) != default and getattr(self, other) not in values:
                found[key] = f"{other} is {' or '.join(values)}"
        return found


def _check_numbers(value: Any, annotation: Any, place: str = "") -> None:
    """Raise where a number is not finite or, unless it is None, where what is annotated so is true or false."""
    if isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("finite_number", "{place}", {"place": f" as {place}" if place else ""})
    if isinstance(value, bool) and annotation is not None:
        kinds = {int: "a whole number", float: "a number"}
        expected = next((text for kind, text in kinds.items() if _mentions(annotation, kind)), "text")
        raise PydanticCustomError("no_bool", "{expected}", {"expected": expected})
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in items:
        of_inner = None if isinstance(value, Mapping) else annotation
        _check_numbers(inner, of_inner, f"{place}.{key}" if place else str(key))


def _mentions(annotation: Any, kind: Any) -> bool:
    return annotation is kind or any(_mentions(inner, kind) for inner in get_args(annotation))


def complaint(error: Mapping[str, Any], field: FieldInfo | None = None, block: type[BaseModel] | None = None) -> str:
    """Return one of pydantic's errors in plain words: what was expected, and what was given.

    Args:
        error: of ``ValidationError.errors()``.
        field: the key that is wrong, whose description may begin with the form of its value: ``[height, width]``.
        block: what the key holds, where it holds a block.
    """
    if error["type"] in ("value_error", "assertion_error"):
        return lower(error["msg"].removeprefix("Value error, "))
    description = (field.description if field is not None else None) or ""
    return f"expected {_expected(error, description, block) or lower(error['msg'])}, got {written(error['input'])}"


_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_NOUNS = {"int": "a whole number", "float": "a number", "string": "text", "bool": "true or false", "path": "a path"}


def _expected(error: Mapping[str, Any], description: str, block: type[BaseModel] | None) -> str | None:
    kind, context = error["type"], error.get("ctx", {})
    if kind in ("model_type", "model_attributes_type", "dict_type", "mapping_type"):
        if block is None:
            return "keys and values, as {key: value}"
        required = [name for name, field in block.model_fields.items() if field.is_required()]
        names = required or list(block.model_fields)[:2]
        return "keys and values such as {" + ", ".join(f"{name}: ..." for name in names) + "}"
    if kind in ("tuple_type", "list_type", "too_long", "too_short", "missing"):
        if description.startswith("["):
            return description.partition("]")[0] + "]"
        if kind in ("too_long", "too_short"):
            word, count = ("least", "min_length") if kind == "too_short" else ("most", "max_length")
            return f"at {word} {context.get(count)} item{'s' * (context.get(count) != 1)}"
        return "a list"
    if kind == "literal_error":
        choices = [text.strip("'") for text in str(context["expected"]).replace(" or ", ", ").split(", ")]
        hint = nearest(error["input"], choices)
        is_typo = len(choices) > 1 and isinstance(error["input"], str) and hint.startswith("did you mean")
        return f"{context['expected']}" + (f" ({hint})" if is_typo else "")
    if kind in _LIMITS:
        word, key = _LIMITS[kind]
        return f"{word} {int(context[key]) if float(context[key]).is_integer() else context[key]}"
    texts = {
        "finite_number": f"a finite number{context.get('place', '')}",
        "no_bool": context.get("expected"),
        "string_pattern_mismatch": "letters, digits, _, - and ., no other character first than a letter, digit or _",
        "string_too_long": f"at most {context.get('max_length')} characters",
    }
    return texts.get(kind) or _NOUNS.get(kind.split("_")[0])


def block_of(annotation: Any) -> Any:
    """Return the class of the block that a key of a type holds, None where it holds none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    blocks = map(block_of, get_args(annotation))
    return next((block for block in blocks if block is not None), None)


def lower(text: str) -> str:
    """Return a message with a small first letter, to go on after a colon."""
    return text[:1].lower() + text[1:]


def written(value: Any, most: int = 80) -> str:
    """Return a value as YAML writes it, cut short where it is long."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: ".inf", -math.inf: "-.inf"}.get(value, ".nan")
    if isinstance(value, str):
        text = repr(value)
    elif isinstance(value, Mapping):
        text = "{" + ", ".join(f"{key}: {written(inner)}" for key, inner in list(value.items())[:20]) + "}"
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(written(inner) for inner in value[:20]) + "]"
    else:
        text = f"{value:.4g}" if isinstance(value, int) and abs(value) > 10**20 else str(value)
    return text if len(text) <= most else f"{text[:most]}..."
