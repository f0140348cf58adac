"""The methods a config can name, and their options, read from the signatures of what implements them."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, ValidationError, create_model

from segkd.common.plain import Checked, complaint
from segkd.errors import SegkdError, nearest
from segkd.schedules import Linear, alw
from segkd.training.signatures import header


@dataclass(frozen=True)
class Method:
    """A method as ``segkd methods`` lists it: what builds it, what it reads, where it was published.

    What needs torch is named ``module:Name`` and imported when it is built, not when a config is read.
    """

    place: str | Callable[..., Any]
    title: str
    reads: str
    paper: str

    @property
    def build(self) -> Callable[..., Any]:
        """Return the class or function that implements it."""
        if not isinstance(self.place, str):
            return self.place
        module, _, name = self.place.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found

    @property
    def header(self) -> Callable[..., Any]:
        """Return something with the same parameters as `build`, without importing what needs torch."""
        return header(self.place) if isinstance(self.place, str) else self.place


LOSSES: dict[str, Method] = {
    "icsd": Method("segkd.losses.icsd:ICSD", "Inter-class similarity distillation", "logits", "arXiv 2308.04243"),
    "pixel_kd": Method("segkd.losses.pixel_kd:PixelKD", "Pixel-wise KD", "logits", "arXiv 1503.02531"),
    "cwd": Method("segkd.losses.cwd:CWD", "Channel-wise distillation", "logits or features", "arXiv 2011.13256"),
    "pkd": Method(
        "segkd.losses.pkd:PKD",
        "Pearson-correlation distillation",
        "features, or the FPN of detectors",
        "arXiv 2207.02039",
    ),
    "crosskd_class": Method(
        "segkd.detection.crosskd:CrossKDClass",
        "Cross-head distillation of classes",
        "the head of detectors",
        "arXiv 2306.11369",
    ),
    "crosskd_box": Method(
        "segkd.detection.crosskd:CrossKDBox",
        "Cross-head distillation of boxes",
        "the head of detectors",
        "arXiv 2306.11369",
    ),
}
SCHEDULES: dict[str, Method] = {
    "alw": Method(alw, "Adaptive loss weighting", "progress", "arXiv 2308.04243"),
    "linear": Method(Linear, "Straight line between two factors", "progress", "-"),
}
WEIGHTINGS: dict[str, Method] = {
    "rdd": Method(
        "segkd.weighting:RelativeDifficulty",
        "Relative difficulty distillation",
        "logits, and the teacher's auxiliary ones",
        "arXiv 2407.03719",
    ),
}
TASK_LOSSES: dict[str, Method] = {
    name: Method(f"segkd.segmentation.task_losses:{cls}", title, "logits", paper)
    for name, cls, title, paper in (
        ("cross_entropy", "CrossEntropy", "Cross-entropy", "-"),
        ("ohem", "OHEM", "Online hard example mining", "arXiv 1604.03540"),
        ("focal", "Focal", "Focal loss", "arXiv 1708.02002"),
        ("dice", "Dice", "Dice loss", "arXiv 1606.04797"),
    )
}

GROUPS: dict[str, dict[str, Method]] = {
    "losses: distill.terms.NAME.loss": LOSSES,
    "schedules: distill.schedule": SCHEDULES,
    "pixel weighting: distill.pixel_weighting": WEIGHTINGS,
    "task losses of segmentation: task_loss": TASK_LOSSES,
}
"""Every method, under what it is and where a config names it."""


def options_of(build: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the options that a class or function takes, by name; a module without any shows nn.Module's ``*args``."""
    parameters = inspect.signature(build).parameters
    return {key: option for key, option in parameters.items() if option.kind is option.POSITIONAL_OR_KEYWORD}


def defaults(method: Method) -> str:
    """Return a method's options with their defaults, as a config writes them; an option alone must be given."""

    def written(value: Any) -> str:
        if isinstance(value, (tuple, list)):
            return f"[{', '.join(map(written, value))}]"
        return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    return ", ".join(
        key if option.default is option.empty else f"{key}: {written(option.default)}"
        for key, option in options_of(method.header).items()
    )


def make(kind: str, methods: Mapping[str, Method], name: str, options: Mapping[str, Any]) -> Any:
    """Build the method ``name`` with its options, checked against its signature.

    Args: see `check`.

    Raises:
        SegkdError: no such method or option (with the nearest name), or a value it does not take.
    """
    checked = check(kind, methods, name, options)
    return methods[name].build(**checked)


def check(kind: str, methods: Mapping[str, Method], name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the method ``name``, each of its type: all that can be known without importing torch.

    Args:
        kind: how error messages call it, e.g. ``"loss"``.
        methods: where to look ``name`` up.
        name: as in the config.
        options: as in the config.

    Raises:
        SegkdError: no such method or option (with the nearest name), or a value of another type.
    """
    if ":" in name:
        raise SegkdError(
            f"a {kind} of one's own cannot be named in a config yet, as {name!r} does; what is possible now is to pass "
            "it to segkd.Distiller in Python (docs/custom-models.md)"
        )
    if name not in methods:
        raise SegkdError(f"there is no {kind} {name!r}, {nearest(name, methods)}")
    header = methods[name].header
    parameters = options_of(header)
    for key in options:
        if key not in parameters:
            raise SegkdError(f"{kind} {name!r} has no option {key!r}, {nearest(key, parameters)}")
    try:
        return _options_model(header).model_validate(dict(options)).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or part == first["loc"][0])
        if first["type"] == "missing" and len(first["loc"]) == 1:
            raise SegkdError(f"{kind} {name!r}: its option {option!r} is missing") from None
        raise SegkdError(f"{kind} {name!r}, option {option!r}: {complaint(first)}") from None


def _options_model(build: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(build.__init__ if inspect.isclass(build) else build)
    fields: dict[str, Any] = {
        key: (hints[key], ... if parameter.default is parameter.empty else parameter.default)
        for key, parameter in options_of(build).items()
    }
    return create_model("Options", __base__=Checked, **fields)
