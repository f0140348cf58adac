"""What is searched over: keys of a config, each with a range or a choice of values."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segkd.common.plain import written
from segkd.common.yaml_file import parse_yaml
from segkd.errors import SegkdError
from segkd.training.config import load_config, whole
from segkd.training.schema import Config

if TYPE_CHECKING:
    from optuna import Trial

_RANGE = re.compile(r"([\w.+-]+?)\.\.([\w.+-]+)")
_FIXED = ("name", "runs", "seed", "task", "data.dataset", "data.root", "data.train_split", "data.val_split")


@dataclass(frozen=True)
class Knob:
    """A key that is searched over: between the two values of a range, or among those of a choice."""

    key: str
    values: tuple[Any, ...]
    is_range: bool

    def __str__(self) -> str:
        return (".." if self.is_range else ",").join(map(exact, self.values))

    @property
    def is_log(self) -> bool:
        """Whether the logarithm of the value is searched over."""
        return self.is_range and self.values[0] > 0 and self.values[1] / self.values[0] >= 10

    def suggest(self, trial: "Trial") -> Any:
        """Return the value that a trial is to have: the same whenever it is asked for."""
        if not self.is_range:  # written as text: Optuna keeps no lists
            return self.value(trial.suggest_categorical(self.key, list(dict.fromkeys(map(exact, self.values)))))
        suggest: Any = trial.suggest_int if isinstance(self.values[0], int) else trial.suggest_float
        return suggest(self.key, *self.values, log=self.is_log)

    def value(self, kept: Any) -> Any:
        """Return the value of which Optuna keeps this."""
        return kept if self.is_range else next(value for value in self.values if exact(value) == kept)


def shown(value: Any) -> str:
    """Return a value as a person reads it."""
    return value if isinstance(value, str) else f"{value:.4g}" if isinstance(value, float) else written(value, 1000)


def exact(value: Any) -> str:
    """Return a value as text that no other number has."""
    return repr(value) if isinstance(value, float) and float(shown(value)) != value else shown(value)


def make_knob(key: str, given: Any) -> Knob | None:
    """Read what is to be searched over: text as on the command line, or a list of choices; None if it is neither."""
    found = _RANGE.fullmatch(given) if isinstance(given, str) else None
    if found:
        values = tuple(map(parse_yaml, found.groups()))
        if not all(type(v) in (int, float) and math.isfinite(v) for v in values) or values[0] >= values[1]:
            raise SegkdError(f"{key}={given} is no range: one is 0.1..3, or 1..8 of whole numbers, the smaller first")
        values = values if {*map(type, values)} == {int} else tuple(map(float, values))
    else:
        try:  # commas within brackets are of a value
            given = parse_yaml(f"[{given}]") if isinstance(given, str) else given
        except SegkdError:
            return None  # what is wrong with it as a plain value is told where it is read as one
        if not isinstance(given, list | tuple) or len(given) < 2:
            return None
        values = tuple(given)
    if key in _FIXED or ".overrides" in key:
        raise SegkdError(f"{key} cannot be searched over: it is the same in all trials, and for their teacher")
    return Knob(key, values, found is not None)


def split_space(texts: Sequence[str]) -> tuple[list[Knob], list[str]]:
    """Return which of ``key=value`` texts are to be searched over, and the others: plain changes to the config."""
    pairs = [(text, make_knob(*(part.strip() for part in text.partition("=")[::2]))) for text in texts]
    knobs = {knob.key: knob for _, knob in pairs if knob is not None}
    return list(knobs.values()), [text for text, knob in pairs if knob is None]


def check_space(config: Config, knobs: Sequence[Knob], build: bool = False) -> list[Config]:
    """Return the configs at both ends of each range and with each choice, the others at their first; or raise."""
    first = {knob.key: knob.values[0] for knob in knobs}
    corners = [first, *({**first, knob.key: value} for knob in knobs for value in knob.values[1:])]
    return [with_values(config, values, build) for values in corners]


def with_values(config: Config, values: Mapping[str, Any], build: bool = False) -> Config:
    """Return a config with other values, by dotted key."""
    try:
        return load_config(whole(config), values, build=build)
    except SegkdError as error:
        raise SegkdError(str(error).removeprefix("the keywords: ")) from None


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return of each key as many of its last parts as tell it from the others."""
    ends = [[".".join(key.split(".")[-count:]) for key in keys] for count in range(1, 32)]
    return {key: next(end[i] for end in ends if end.count(end[i]) == 1) for i, key in enumerate(keys)}
