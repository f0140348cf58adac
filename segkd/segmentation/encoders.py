"""What is known of an encoder by its name: whether it exists, how its input is normalised, whether the hub answers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
from huggingface_hub import constants as hub_constants
from huggingface_hub.utils import get_session
from timm.data.constants import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_DPN_MEAN,
    IMAGENET_DPN_STD,
    IMAGENET_INCEPTION_MEAN,
    IMAGENET_INCEPTION_STD,
)

from segkd.errors import SegkdError, nearest

#: Files that weights are read from.
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

# Encoders of smp itself whose ImageNet weights were trained on inputs in [-1, 1].
_INCEPTION_ENCODERS = ("inceptionv4", "inceptionresnetv2", "xception", "timm-tf_efficientnet_lite")

# Seconds to wait for the hub to answer at all: without this its client retries for half a minute to several minutes.
_HUB_PATIENCE = 5.0

Triple = tuple[float, float, float]


def is_weight_file(encoder_weights: object) -> bool:
    """Whether `encoder_weights` means a local file and not a name at the hub."""
    text = str(encoder_weights)
    return text.endswith(WEIGHT_SUFFIXES) or "/" in text or "\\" in text or Path(text).is_file()


def check_encoder(encoder: str, encoder_weights: str | Path | bool | None = None) -> None:
    """Raise `SegkdError` unless `encoder` exists, and `encoder_weights` is None, a file, or a set the hub has for it.

    Args:
        encoder: a name of segmentation-models-pytorch, such as ``resnet18``, or a timm name after ``tu-``.
        encoder_weights: None, a path, or a name such as ``imagenet``.
    """
    known = smp.encoders.encoders
    if encoder.startswith("tu-"):
        if not timm.is_model(encoder[3:]):
            names = [f"tu-{name}" for name in timm.list_models()]
            raise SegkdError(f"no timm encoder {encoder!r}: {nearest(encoder.lower(), names)}")
        try:
            timm.get_pretrained_cfg(encoder[3:], allow_unregistered=True)
        except RuntimeError as error:  # the name is known, the tag after its dot is not
            tagged = [f"tu-{name}" for name in timm.list_pretrained(encoder[3:].split(".")[0])]
            raise SegkdError(f"no timm weights {encoder!r}: {nearest(encoder, tagged)}") from error
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
        described = timm.get_pretrained_cfg(encoder[3:], allow_unregistered=True)
        if described is not None:
            return _triple(described.mean), _triple(described.std)
    elif encoder.startswith(_INCEPTION_ENCODERS) or encoder_weights == "advprop":
        return _triple(IMAGENET_INCEPTION_MEAN), _triple(IMAGENET_INCEPTION_STD)
    elif encoder.startswith("dpn"):
        return _triple(IMAGENET_DPN_MEAN), _triple(IMAGENET_DPN_STD)
    return _triple(IMAGENET_DEFAULT_MEAN), _triple(IMAGENET_DEFAULT_STD)


def _triple(values: tuple[float, ...]) -> Triple:
    """Three floats: an encoder for grey images (one value) is fed the same value in each channel."""
    red, green, blue = values if len(values) == 3 else (values[0],) * 3
    return float(red), float(green), float(blue)


@contextlib.contextmanager
def hub_or_cache() -> Iterator[None]:
    """Within this, downloads come from the hub, or at once from the local cache (or not at all) if it gives no answer.

    One short request, through the hub's own client and so through the user's proxy, asks whether it is there. If it is
    not, the hub's client is told to work offline, which spares its retries.
    """
    offline = hub_constants.HF_HUB_OFFLINE
    try:
        get_session().head(hub_constants.ENDPOINT, timeout=_HUB_PATIENCE)
    except Exception:  # whatever the reason: DNS, proxy, timeout, TLS, or offline mode on request
        hub_constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE = offline
