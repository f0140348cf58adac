"""Models of segmentation-models-pytorch in files: weights, and the description that the library opens by itself."""

import contextlib
import inspect
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from torch import Tensor, nn

from segkd.common.description import NetworkName, Text, check_keys, check_value, setting
from segkd.common.plain import written
from segkd.common.student import STUDENT_FILE, weights_file
from segkd.common.weights import check_fit, load_pretrained, read_state_dict
from segkd.errors import SegkdError
from segkd.models.smp import NOT_OPTIONS, check_encoder, find_architecture, inner_model

#: Where the auxiliary head of a saved student lies in its folder.
AUXILIARY_FILE = "auxiliary.safetensors"

CLASS_KEY = "_model_class"  # which key of the library's own config.json holds the architecture


def load_weights(model: nn.Module, path: str | Path) -> bool:
    """Load weights into a model from `build_model`, all of them or none; a path is as `Family.load` takes it.

    Returns whether it has an auxiliary head and the file held its weights: False with a `WithAuxiliary` means that this
    head is as it was before, most likely untrained.
    """
    file = weights_file(path)
    state = read_state_dict(file)
    head = {key.removeprefix("auxiliary."): value for key, value in state.items() if key.startswith("auxiliary.")}
    if head:  # saved from a WithAuxiliary, whose inner model is `model`
        state = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    elif file.name == STUDENT_FILE and (file.parent / AUXILIARY_FILE).is_file():
        head = read_state_dict(file.parent / AUXILIARY_FILE)
    inner = inner_model(model)
    check_fit(inner, state, file, classes=lambda key, value: _rows(key, value, "segmentation_head."))
    found = bool(head) and inner is not model
    if found:
        auxiliary: Any = model.auxiliary
        check_fit(auxiliary, head, file, "auxiliary.", lambda key, value: _rows(key, value, "4."))
        auxiliary.load_state_dict(head)
    inner.load_state_dict(state)
    return found


def load_encoder_weights(encoder: nn.Module, path: str | Path, name: str) -> None:
    """Load a file of classification weights, or of a whole model, into an encoder; deeper stages are passed over."""
    # A timm encoder cut short lacks `blocks.5` while it has `blocks`; otherwise a part with a known name must fit.
    cut_short = getattr(encoder, "_depth", 5) < 5
    parts = 3 if cut_short else 2 if "model." in next(iter(encoder.state_dict()), "") else 1
    load_pretrained(encoder, read_state_dict(path), path, f"encoder {name!r}", within="encoder.", parts=parts)


def _rows(key: str, value: Tensor, classifier: str) -> int | None:
    """The outputs of a tensor of the classifier, one per class."""
    return value.shape[0] if key.startswith(classifier) else None


def of_library(config: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Return the settings of `SMPBlock` and the number of classes of a config.json of the library.

    Keys with a leading underscore but `CLASS_KEY` are passed over, as the library does. A stranger may have written it:
    another key, or a value that is no plain setting, raises a `SegkdError`.
    """
    if CLASS_KEY not in config:
        raise SegkdError(f"{CLASS_KEY} is missing")
    check_value(CLASS_KEY, config[CLASS_KEY], Text)
    with _said_of(CLASS_KEY):
        architecture = find_architecture(config[CLASS_KEY])
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    check_keys(given, _kinds(architecture), required=("encoder_name", "classes"))
    with _said_of("encoder_name"):
        check_encoder(given["encoder_name"])
    options = {key: value for key, value in given.items() if key not in NOT_OPTIONS}
    return {"arch": config[CLASS_KEY], "encoder": given["encoder_name"], "options": options}, given["classes"]


@contextlib.contextmanager
def _said_of(key: str) -> Iterator[None]:
    try:
        yield
    except SegkdError as error:
        raise SegkdError(f"{key}: {error}") from None


def _is_null(value: Any) -> None:
    if value is not None:
        raise ValueError(f"expected null, since a student returns logits and nothing else, got {written(value)}")


_Null = Annotated[Any, AfterValidator(_is_null)]
_NORM_KEYS = Literal["type", "eps", "momentum", "affine", "track_running_stats", "elementwise_affine", "bias"]

# Of arguments that could do more than size a network: name code, fetch weights, or return something else than logits.
_KINDS: dict[str, Any] = {
    "encoder_name": NetworkName,
    "encoder_weights": Text | bool | None,
    "encoder_depth": Annotated[int, Field(ge=1, le=5)],
    "in_channels": Literal[3],
    "classes": Annotated[int, Field(ge=1, le=255)],
    "activation": _Null,
    "aux_params": _Null,
    "upsampling": Annotated[int, Field(ge=1, le=64)] | None,
    "decoder_use_norm": bool | Text | dict[_NORM_KEYS, setting(bool | float | str | None)],  # type: ignore[misc]
    "decoder_interpolation": Literal["nearest", "nearest-exact", "bilinear", "bicubic", "area"],
}


def _kinds(architecture: Any) -> dict[str, Any]:
    """Return a type for each argument of an architecture, without those that it hands on to the encoder unseen."""
    kinds = {}
    for name, parameter in inspect.signature(architecture, eval_str=True).parameters.items():
        kind = parameter.annotation
        # pydantic leaves the items of an iterable unchecked until someone asks for them.
        if typing.get_origin(kind) is Iterable:
            kind = Sequence[typing.get_args(kind)[0]]  # type: ignore[misc]
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            kinds[name] = _KINDS[name] if name in _KINDS else setting(kind)
    return kinds
