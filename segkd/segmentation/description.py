"""What a saved student's config.json may say of a network of segmentation-models-pytorch: plain settings, no more."""

import collections.abc
import inspect
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import segmentation_models_pytorch as smp
from pydantic import AfterValidator, Field
from torch import nn

from segkd.common.description import NetworkName, Text, check_keys, check_value, setting
from segkd.common.plain import written
from segkd.errors import SegkdError, nearest
from segkd.segmentation.encoders import check_encoder

CLASS_KEY = "_model_class"
"""Which key holds the architecture."""


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


def build(config: dict[str, Any]) -> nn.Module:
    """Build the network that a description is of, with random weights; nothing is fetched.

    Args:
        config: the content of ``config.json``. Keys with a leading underscore but `CLASS_KEY` are passed over, as the
            library does.

    Raises:
        SegkdError: an unknown architecture, encoder or argument, or a value that is no plain setting of it.
    """
    name = config.get(CLASS_KEY)
    if name is None:
        raise SegkdError(f"{CLASS_KEY} is missing")
    check_value(CLASS_KEY, name, Text)
    architecture = smp.MODEL_ARCHITECTURES_MAPPING.get(name.lower())
    if architecture is None:
        raise SegkdError(f"{CLASS_KEY}: no architecture {name!r}: {nearest(name, smp.MODEL_ARCHITECTURES_MAPPING)}")
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    check_keys(arguments, _kinds(architecture), required=("encoder_name", "classes"))
    try:
        check_encoder(arguments["encoder_name"])
    except SegkdError as error:
        raise SegkdError(f"encoder_name: {error}") from error
    return architecture(**{**arguments, "encoder_weights": None})


def _kinds(architecture: type[nn.Module]) -> dict[str, Any]:
    """Return a type for each argument of an architecture, without those that it hands on to the encoder unseen."""
    parameters = inspect.signature(architecture, eval_str=True).parameters.values()
    named = [parameter for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    return {
        parameter.name: _KINDS[parameter.name] if parameter.name in _KINDS else setting(_listed(parameter.annotation))
        for parameter in named
    }


def _listed(annotation: Any) -> Any:
    # pydantic leaves the items of an iterable unchecked until someone asks for them.
    if typing.get_origin(annotation) is collections.abc.Iterable:
        return Sequence[typing.get_args(annotation)[0]]  # type: ignore[misc]
    return annotation
