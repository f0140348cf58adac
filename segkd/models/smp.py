"""Segmentation models by name: architectures and encoders of segmentation-models-pytorch, timm networks as encoders."""

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from segkd.common.values import ModelName, PathText
from segkd.errors import SegkdError, nearest
from segkd.models.family import Built, Family, ModelBlock, Normalization, Triple

if TYPE_CHECKING:
    from torch import nn

# Set by build_model itself, or at odds with a model that maps RGB images to raw logits.
NOT_OPTIONS = ("encoder_name", "encoder_weights", "classes", "in_channels", "activation", "aux_params", "kwargs")
# Encoders of smp itself whose ImageNet weights were trained on inputs in [-1, 1].
_INCEPTION_ENCODERS = ("inceptionv4", "inceptionresnetv2", "xception", "timm-tf_efficientnet_lite")


class SMPBlock(ModelBlock):
    """A model of segmentation-models-pytorch."""

    arch: ModelName = Field(description="such as DeepLabV3Plus, Unet or Segformer")
    encoder: ModelName = Field(description="such as resnet18; a timm network after tu-")
    encoder_weights: PathText | None = Field(None, description="hub name such as imagenet, a local file, or null")
    auxiliary: bool = Field(False, description="add an FCN head on encoder stage 4")
    auxiliary_weight: Annotated[float, Field(ge=0)] = Field(0.4, description="weight of that head's loss in training")
    normalization: Normalization | None = Field(None, description="default: what the pretrained part was trained with")


class SMP(Family):
    """Architectures of segmentation-models-pytorch; their modules are the library's own, or a `WithAuxiliary`."""

    name = "smp"
    title = "segmentation-models-pytorch, timm's networks as encoders"
    block = SMPBlock
    kept = ("arch", "encoder", "auxiliary", "normalization", "options")

    @classmethod
    def build(cls, block: SMPBlock, classes: Sequence[str] | None, weights: bool = True) -> Built:
        """Return a model, see `build_model`; it always has to be told its classes."""
        from segkd.network import Preprocess

        encoder_weights = block.encoder_weights if weights else None
        count = len(classes or ())
        module = build_model(block.arch, block.encoder, count, encoder_weights, block.auxiliary, block.options)
        given = block.normalization
        mean, std = (given.mean, given.std) if given else normalization(block.encoder, block.encoder_weights)
        inner = inner_model(module)
        multiple = int(inner.encoder.output_stride) if getattr(inner, "requires_divisible_input_shape", False) else 1
        settings = block.model_dump(include={"arch", "encoder", "auxiliary", "options"})
        settings["normalization"] = {"mean": list(mean), "std": list(std)}
        return Built(module, Preprocess(mean, std, multiple=multiple), None, settings)

    @classmethod
    def load(cls, module: "nn.Module", path: str | Path) -> bool:
        """Load weights, see `segkd.models.smp_files.load_weights`; False where an auxiliary head has got none."""
        from segkd.models.smp_files import load_weights

        return load_weights(module, path) or inner_model(module) is module


def build_model(
    arch: str,
    encoder: str,
    classes: int,
    encoder_weights: str | Path | None = None,
    auxiliary: bool = False,
    options: Mapping[str, Any] | None = None,
) -> "nn.Module":
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
    from segkd.common.networks import hub_or_cache
    from segkd.common.weights import is_weight_file
    from segkd.models.auxiliary import WithAuxiliary

    options = dict(options or {})
    architecture = find_architecture(arch)
    arch = architecture.__name__
    check_encoder(encoder, encoder_weights)
    if classes < 1:
        raise SegkdError(f"{arch} needs at least one class, got {classes}")
    valid = [name for name in inspect.signature(architecture).parameters if name not in NOT_OPTIONS]
    for key in options:
        if key not in valid:
            raise SegkdError(f"{arch} has no option {key!r}: {nearest(key, valid)}")

    is_file = encoder_weights is not None and is_weight_file(encoder_weights)
    at_hub: Any = None if is_file else encoder_weights
    what = f"the weights {str(at_hub)!r} of encoder {encoder!r}"
    # Of timm's any word means the same to smp, with a warning unless it is True.
    named = True if at_hub is not None and encoder.startswith("tu-") else at_hub
    try:
        with hub_or_cache(what, "encoder_weights") if at_hub is not None else contextlib.nullcontext():
            model = architecture(encoder_name=encoder, encoder_weights=named, classes=classes, **options)
    except SegkdError:
        raise
    # smp and timm refuse a combination of names and options with errors of every kind: all come from what was asked.
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        chosen = "".join(f", {key}={value!r}" for key, value in options.items())
        raise SegkdError(
            f"{arch} with encoder {encoder!r}{chosen} cannot be built: {type(error).__name__}: {reason}"
        ) from error
    if is_file:
        from segkd.models.smp_files import load_encoder_weights

        load_encoder_weights(model.encoder, str(encoder_weights), encoder)
    return WithAuxiliary(model, classes) if auxiliary else model


def find_architecture(name: str) -> Any:
    """Return a class of the library by name; case does not matter."""
    import segmentation_models_pytorch as smp

    found = smp.MODEL_ARCHITECTURES_MAPPING.get(name.lower())
    if found is None:
        spelled = name.lower().replace("+", "plus")
        raise SegkdError(f"no architecture {name!r}: {nearest(spelled, smp.MODEL_ARCHITECTURES_MAPPING)}")
    return found


def inner_model(model: Any) -> Any:
    """Return the library's own model."""
    from segkd.models.auxiliary import WithAuxiliary

    return model.model if isinstance(model, WithAuxiliary) else model


def check_encoder(encoder: str, encoder_weights: str | Path | bool | None = None) -> None:
    """Raise `SegkdError` unless there is such an encoder and such weights of it, see `build_model`."""
    import segmentation_models_pytorch as smp

    from segkd.common.networks import check_network

    known = smp.encoders.encoders
    check_network(
        encoder, "encoder", known, lambda name: known[name]["pretrained_settings"], "imagenet", encoder_weights
    )


def normalization(encoder: str, encoder_weights: str | Path | None = None) -> tuple[Triple, Triple]:
    """Return the mean and standard deviation of an encoder's input, per RGB channel, for pixels in [0, 1].

    Taken from what is installed, never from the network: timm's description of a ``tu-`` encoder, else what the
    encoder's ImageNet weights were trained with; of the weights only ``advprop`` changes the answer.
    """
    from timm.data import constants

    from segkd.common.networks import IMAGENET, timm_normalization, triple

    check_encoder(encoder)
    if encoder.startswith("tu-"):
        return timm_normalization(encoder)
    if encoder.startswith(_INCEPTION_ENCODERS) or encoder_weights == "advprop":
        return triple(constants.IMAGENET_INCEPTION_MEAN), triple(constants.IMAGENET_INCEPTION_STD)
    if encoder.startswith("dpn"):
        return triple(constants.IMAGENET_DPN_MEAN), triple(constants.IMAGENET_DPN_STD)
    return IMAGENET
