"""Pretrained networks: timm's names, how their input is normalised, and weights from a hub that may not answer."""

import contextlib
from collections.abc import Iterator

import timm
import torchvision
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from segkd.common.weights import State
from segkd.errors import SegkdError, nearest

Triple = tuple[float, float, float]

#: Mean and standard deviation, per RGB channel for pixels in [0, 1], of most ImageNet weights.
IMAGENET: tuple[Triple, Triple] = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

# What a key names locally in place of what a hub has.
LOCAL_FILE = "file ({}: path/to/file.safetensors or .pth)"

# Seconds to wait for the hub to answer at all: without this its client retries for half a minute to several minutes.
_HUB_PATIENCE = 5.0


def check_timm(name: str, kind: str) -> None:
    """Raise `SegkdError` unless `name` is a timm network, after ``tu-``, and its tag, if any, one of its weights.

    Args:
        name: such as ``tu-resnet18`` or ``tu-resnet18.a1_in1k``.
        kind: what it is used as, for messages: ``encoder`` or ``backbone``.
    """
    if not timm.is_model(name[3:]):
        names = [f"tu-{known}" for known in timm.list_models()]
        raise SegkdError(f"no timm {kind} {name!r}: {nearest(name.lower(), names)}")
    try:
        timm.get_pretrained_cfg(name[3:], allow_unregistered=True)
    except RuntimeError as error:  # the name is known, the tag after its dot is not
        tagged = [f"tu-{known}" for known in timm.list_pretrained(name[3:].split(".")[0])]
        raise SegkdError(f"no timm weights {name!r}: {nearest(name, tagged)}") from error


def timm_normalization(name: str) -> tuple[Triple, Triple]:
    """Return the mean and standard deviation of a timm network's input, from what is installed.

    Args:
        name: after ``tu-``, as `check_timm` accepts it.
    """
    described = timm.get_pretrained_cfg(name[3:], allow_unregistered=True)
    return IMAGENET if described is None else (triple(described.mean), triple(described.std))


def torchvision_weights(name: str, weights: str, key: str) -> State:
    """Return weights that torchvision's hub has, or its local cache.

    Args:
        name: of a network of torchvision.
        weights: ``default``, or the name of a set that it has.
        key: the config's key that can name a local file instead, for the message.

    Raises:
        SegkdError: there is no such set, or it could not be fetched.
    """
    sets = torchvision.models.get_model_weights(name)
    if weights != "default" and weights not in sets.__members__:
        raise SegkdError(f"{name} has no weights {weights!r}: {nearest(weights, ['default', *sets.__members__])}")
    try:
        entry = sets["DEFAULT" if weights == "default" else weights]
        return dict(entry.get_state_dict(progress=False, check_hash=True, weights_only=True))
    except OSError as error:  # urllib's errors are
        raise unreachable(f"the weights {weights!r} of {name!r}", key) from error


def triple(values: tuple[float, ...]) -> Triple:
    """Return three floats: a network for grey images (one value) is fed the same value in each channel."""
    red, green, blue = values if len(values) == 3 else (values[0],) * 3
    return float(red), float(green), float(blue)


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Within this, the hub's client opens no connection: what is asked of the hub is in the local cache or an error."""
    before = hub_constants.HF_HUB_OFFLINE
    hub_constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def hub_or_cache(what: str, key: str, local: str = LOCAL_FILE) -> Iterator[None]:
    """Within this, downloads come from the hub, or at once from the local cache if the hub gives no answer.

    One short request, through the hub's own client and so through the user's proxy, asks whether it is there. If it is
    not, the hub's client is told to work offline, which spares its retries.

    Args:
        what: what is downloaded, for the message.
        key: the config's key that can name it locally instead, for the message.
        local: what the key names then, likewise.

    Raises:
        SegkdError: a download failed, and the cache does not have it.
    """
    try:
        get_session().head(hub_constants.ENDPOINT, timeout=_HUB_PATIENCE)
        reached: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    except Exception:  # whatever the reason: DNS, proxy, timeout, TLS, or offline mode on request
        reached = offline()
    with reached:
        try:
            yield
        except (HfHubHTTPError, EntryNotFoundError, OfflineModeIsEnabled) as error:
            raise unreachable(what, key, local) from error


def unreachable(what: str, key: str, local: str = LOCAL_FILE) -> SegkdError:
    """Return the error that `hub_or_cache` raises, for hubs of other kinds."""
    return SegkdError(
        f"{what} could not be fetched from the hub and are not in its local cache: go online, or give a local "
        f"{local.format(key)}"
    )
