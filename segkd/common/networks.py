"""Pretrained networks: timm's names, how their input is normalised, and weights from a hub that may not answer."""

import contextlib
from collections.abc import Callable, Collection, Iterator

import timm
import torchvision
from huggingface_hub import constants as hub_constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import get_session
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from segkd.common.weights import State, is_weight_file
from segkd.errors import SegkdError, nearest

Triple = tuple[float, float, float]

#: Mean and standard deviation, per RGB channel for pixels in [0, 1], of most ImageNet weights.
IMAGENET: tuple[Triple, Triple] = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)

_LOCAL_FILE = "file ({}: path/to/file.safetensors or .pth)"
# Seconds to wait for the hub to answer at all: without this its client retries for half a minute to several minutes.
_HUB_PATIENCE = 5.0


def check_timm(name: str, kind: str) -> None:
    """Raise `SegkdError` unless `name` is a timm network, after ``tu-``, and its tag, if any, one of its weights."""
    if not timm.is_model(name[3:]):
        names = [f"tu-{known}" for known in timm.list_models()]
        raise SegkdError(f"no timm {kind} {name!r}: {nearest(name.lower(), names)}")
    try:
        timm.get_pretrained_cfg(name[3:], allow_unregistered=True)
    except RuntimeError as error:  # the name is known, the tag after its dot is not
        tagged = [f"tu-{known}" for known in timm.list_pretrained(name[3:].split(".")[0])]
        raise SegkdError(f"no timm weights {name!r}: {nearest(name, tagged)}") from error


def check_network(
    name: str, kind: str, known: Collection[str], sets: Callable[[str], Collection[str]], of_timm: str, weights: object
) -> None:
    """Raise `SegkdError` unless there is such a network, and such weights of it: none, a file, or a set at the hub.

    It is one of a library's own (``known``, with ``sets`` of weights), or one of timm after ``tu-``, whose weights are
    called ``of_timm``; messages call it a ``kind``: encoder or backbone.
    """
    hint = ""
    if name.startswith("tu-"):
        check_timm(name, kind)
        # For timm the pretrained variant is part of the name: any other word would be ignored in silence.
        valid: Collection[str] = [of_timm]
        hint = f"; to choose a variant put its tag in the {kind}'s name, such as '{name.split('.')[0]}.<tag>'"
    elif name in known:
        valid = sets(name)
    elif timm.is_model(name):
        raise SegkdError(f"no {kind} {name!r}: did you mean timm's, 'tu-{name}'?")
    else:
        raise SegkdError(f"no {kind} {name!r}: {nearest(name.lower(), known)} (timm's {kind}s start with 'tu-')")
    if weights is not None and weights is not True and not is_weight_file(weights) and str(weights) not in valid:
        raise SegkdError(
            f"{kind} {name!r} has no weights {str(weights)!r}: {nearest(weights, valid)} (or null, or the path of a"
            f" file){hint}"
        )


def timm_normalization(name: str) -> tuple[Triple, Triple]:
    """Return the mean and standard deviation of a timm network's input (name after ``tu-``), from what is installed."""
    described = timm.get_pretrained_cfg(name[3:], allow_unregistered=True)
    return IMAGENET if described is None else (triple(described.mean), triple(described.std))


def torchvision_weights(name: str, weights: str, key: str) -> State:
    """Return weights of torchvision's hub or cache, ``default`` or by name; ``key``: see `hub_or_cache`."""
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
def hub_or_cache(what: str, key: str, local: str = _LOCAL_FILE) -> Iterator[None]:
    """Within this, downloads come from the hub, or at once from the local cache if the hub gives no answer.

    One short request, through the hub's own client and so through the user's proxy, asks whether it is there. If it is
    not, the hub's client is told to work offline, which spares its retries.

    Raises:
        SegkdError: the cache does not have ``what`` either; the config's ``key`` can name a ``local`` one instead.
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


def unreachable(what: str, key: str, local: str = _LOCAL_FILE) -> SegkdError:
    """Return the error that `hub_or_cache` raises, for hubs of other kinds."""
    return SegkdError(
        f"{what} could not be fetched from the hub and are not in its local cache: go online, or give a local "
        f"{local.format(key)}"
    )
