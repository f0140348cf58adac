"""Segmentation models by name: any architecture and encoder of segmentation-models-pytorch, and how they are kept.

The front door to the modules beside it: everything a trainer needs to make, load and save a model has its name here.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from segkd.common.networks import hub_or_cache
from segkd.common.weights import is_weight_file
from segkd.errors import SegkdError, nearest
from segkd.segmentation.auxiliary import AuxiliaryHead, WithAuxiliary
from segkd.segmentation.encoders import check_encoder, normalization
from segkd.segmentation.student import Student, load_student, save_student
from segkd.segmentation.weights import load_encoder_weights, load_weights

__all__ = [
    "ARCHITECTURES",
    "AuxiliaryHead",
    "Student",
    "WithAuxiliary",
    "build_model",
    "load_student",
    "load_weights",
    "normalization",
    "save_student",
]

#: Architecture names, as they are written; case does not matter.
ARCHITECTURES: tuple[str, ...] = tuple(a.__name__ for a in smp.MODEL_ARCHITECTURES_MAPPING.values())

# Set by build_model itself, or at odds with a model that maps RGB images to raw logits.
_NOT_OPTIONS = {"encoder_name", "encoder_weights", "classes", "in_channels", "activation", "aux_params", "kwargs"}


def build_model(
    arch: str,
    encoder: str,
    classes: int,
    encoder_weights: str | Path | None = None,
    auxiliary: bool = False,
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a model that maps normalised RGB images (B, 3, H, W) to logits (B, C, H, W).

    Args:
        arch: an architecture of segmentation-models-pytorch, such as ``DeepLabV3Plus``; case does not matter.
        encoder: one of its encoders, such as ``resnet18``, or a timm network after ``tu-``.
        classes: number of classes C.
        encoder_weights: None (random), a set of weights at the hub such as ``imagenet``, or a local file.
        auxiliary: whether to add an auxiliary head; the result is then a `WithAuxiliary`, which returns a dict.
        options: further arguments of the architecture, such as ``encoder_output_stride`` or ``decoder_channels``.

    Returns:
        The segmentation-models-pytorch model itself, or a `WithAuxiliary` around it.

    Raises:
        SegkdError: an unknown name or option, a combination that the library refuses, weights that do not fit, or a
            hub that cannot be reached.
    """
    options = dict(options or {})
    architecture = smp.MODEL_ARCHITECTURES_MAPPING.get(arch.lower())
    if architecture is None:
        spelled = arch.lower().replace("+", "plus")
        raise SegkdError(f"no architecture {arch!r}: {nearest(spelled, smp.MODEL_ARCHITECTURES_MAPPING, limit=20)}")
    arch = architecture.__name__
    check_encoder(encoder, encoder_weights)
    if classes < 1:
        raise SegkdError(f"{arch} needs at least one class, got {classes}")
    valid = [name for name in inspect.signature(architecture).parameters if name not in _NOT_OPTIONS]
    for key in options:
        if key not in valid:
            raise SegkdError(f"{arch} has no option {key!r}: {nearest(key, valid, limit=20)}")

    from_file = encoder_weights is not None and is_weight_file(encoder_weights)
    from_hub = encoder_weights is not None and not from_file
    hub_name = encoder_weights if from_hub else None
    if hub_name is not None and encoder.startswith("tu-"):
        hub_name = True  # type: ignore[assignment]  # what smp asks for: any word means the same there, with a warning
    arguments = {"encoder_name": encoder, "encoder_weights": hub_name, "classes": classes, **options}
    try:
        if from_hub:
            what = f"the weights {str(encoder_weights)!r} of encoder {encoder!r}"
            with hub_or_cache(what, "encoder_weights"):
                model = architecture(**arguments)
        else:
            model = architecture(**arguments)
    except SegkdError:
        raise
    # smp and timm refuse a combination of names and options with errors of every kind: all come from what was asked.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        chosen = "".join(f", {key}={value!r}" for key, value in options.items())
        raise SegkdError(
            f"{arch} with encoder {encoder!r}{chosen} cannot be built: {type(error).__name__}: {reason}"
        ) from error
    if from_file:
        assert encoder_weights is not None
        load_encoder_weights(model.encoder, encoder_weights, encoder)
    return WithAuxiliary(model, classes) if auxiliary else model
