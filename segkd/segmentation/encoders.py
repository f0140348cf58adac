"""What is known of an encoder by its name: whether it exists, and how its input is normalised."""

from pathlib import Path

import segmentation_models_pytorch as smp
import timm
from timm.data.constants import (
    IMAGENET_DPN_MEAN,
    IMAGENET_DPN_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)

from segkd.common.networks import IMAGENET, Triple, check_timm, timm_normalization, triple
from segkd.common.weights import is_weight_file
from segkd.errors import SegkdError, nearest

# Encoders of smp itself whose ImageNet weights were trained on inputs in [-1, 1].
_INCEPTION_ENCODERS = ("inceptionv4", "inceptionresnetv2", "xception", "timm-tf_efficientnet_lite")


def check_encoder(encoder: str, encoder_weights: str | Path | bool | None = None) -> None:
    """Raise `SegkdError` unless `encoder` exists, and `encoder_weights` is None, a file, or a set the hub has for it.

    Args:
        encoder: a name of segmentation-models-pytorch, such as ``resnet18``, or a timm name after ``tu-``.
        encoder_weights: None, a path, or a name such as ``imagenet``.
    """
    known = smp.encoders.encoders
    if encoder.startswith("tu-"):
        check_timm(encoder, "encoder")
        # For timm the pretrained variant is part of the encoder's name: any other word would be ignored in silence.
        valid: list[str] = ["imagenet"]
        hint = f"; to choose a variant put its tag in the encoder's name, such as '{encoder.split('.')[0]}.<tag>'"
    elif encoder in known:
        valid, hint = list(known[encoder]["pretrained_settings"]), ""
    else:
        if timm.is_model(encoder):
            raise SegkdError(f"no encoder {encoder!r}: did you mean timm's, 'tu-{encoder}'?")
        raise SegkdError(
            f"no encoder {encoder!r}: {nearest(encoder.lower(), known)} (timm's encoders start with 'tu-')"
        )
    if encoder_weights is None or is_weight_file(encoder_weights):
        return
    if encoder_weights is not True and str(encoder_weights) not in valid:
        raise SegkdError(
            f"encoder {encoder!r} has no weights {str(encoder_weights)!r}: {nearest(encoder_weights, valid)}"
            f" (or null, or the path of a file){hint}"
        )


def normalization(encoder: str, encoder_weights: str | Path | None = None) -> tuple[Triple, Triple]:
    """Return the mean and standard deviation of an encoder's input, per RGB channel, for pixels in [0, 1].

    Taken from what is installed, never from the network: timm's description of a ``tu-`` encoder, else what the
    encoder's ImageNet weights were trained with.

    Args:
        encoder: the encoder's name.
        encoder_weights: the weights it starts from; only ``advprop`` changes the answer.

    Raises:
        SegkdError: there is no such encoder.
    """
    check_encoder(encoder)
    if encoder.startswith("tu-"):
        return timm_normalization(encoder)
    if encoder.startswith(_INCEPTION_ENCODERS) or encoder_weights == "advprop":
        return triple(IMAGENET_INCEPTION_MEAN), triple(IMAGENET_INCEPTION_STD)
    if encoder.startswith("dpn"):
        return triple(IMAGENET_DPN_MEAN), triple(IMAGENET_DPN_STD)
    return IMAGENET
