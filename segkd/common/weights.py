"""Reading weights from a file into a module, strictly, and saying in one line what does not fit."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from segkd.common.paths import check_regular
from segkd.errors import SegkdError, nearest

State = dict[str, Tensor]

#: Files that weights are read from.
WEIGHT_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")

# Batch norm's step counter is absent from older files and from frozen batch norm, and nothing uses it.
_COUNTER = "num_batches_tracked"


def is_weight_file(weights: object) -> bool:
    """Whether `weights` means a local file and not a name at the hub."""
    text = str(weights)
    return text.endswith(WEIGHT_SUFFIXES) or "/" in text or "\\" in text or Path(text).is_file()


def read_state_dict(path: str | Path) -> State:
    """Return the weights of a file, wrappers taken off; of a Lightning checkpoint of this project the student's.

    Raises:
        SegkdError: see `read_content`; the file holds no state dict, or weights that are not finite.
    """
    path = Path(path)
    content = read_content(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise SegkdError(f"{path} holds no state dict (names to tensors)")
    state = {str(key): value for key, value in content.items()}
    ours = "distiller.student."
    if any(key.startswith(ours) for key in state):  # the rest of a checkpoint are connectors and such
        state = {key.removeprefix(ours): value for key, value in state.items() if key.startswith(ours)}
    if state and all(key.startswith("module.") for key in state):  # saved from DataParallel or DDP
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if not state:
        raise SegkdError(f"{path} holds no weights")
    check_finite(state, path)
    return state


def read_content(path: Path) -> object:
    """Return what a file of weights holds, read without unpickling anything but tensors and plain values.

    Raises:
        SegkdError: the file is missing, unreadable, or of an unknown kind.
    """
    check_regular(path, "weights")
    if not path.is_file():
        raise SegkdError(f"{path}: no such file (weights to load)")
    if path.suffix not in WEIGHT_SUFFIXES:
        raise SegkdError(f"{path}: unknown kind of file {path.suffix!r}; {nearest(path.suffix, WEIGHT_SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    # A broken or hostile file makes zipfile, pickle or torch fail in their own ways: all mean that it is unreadable.
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise SegkdError(f"{path} is not a readable weights file ({type(error).__name__}: {reason})") from error


def check_finite(state: State, path: Path) -> None:
    """Raise `SegkdError` at the first tensor that holds NaN or infinity, and name the file that it comes from."""
    for key, value in state.items():
        # As the model will hold it: types of 8 bits have no such test, and float64 goes beyond.
        bad = 0 if not value.is_floating_point() else int((~torch.isfinite(value.float())).sum())
        if bad:
            raise SegkdError(f"{path}: {key!r} is not finite: {bad} of {value.numel()} values are NaN or infinite")


def check_fit(
    module: nn.Module,
    state: State,
    path: object,
    prefix: str = "",
    classes: Callable[[str, Tensor], int | None] = lambda key, value: None,
) -> None:
    """Raise `SegkdError` at the first key that is missing, unexpected, or of another shape.

    ``prefix`` stands before each key in messages. ``classes`` returns for how many classes a tensor is, given its key
    and itself, or None if that does not depend on them: where only such tensors differ, the message says so.
    """
    wanted = module.state_dict()
    missing, differing, unexpected = _differences(wanted, state)
    # What a module makes at its first batch only, it makes of what is loaded too.
    later = {f"{name}.{key}" for name, part in module.named_modules() for key in getattr(part, "made_later", ())}
    unexpected = [key for key in unexpected if key not in later]
    stranger = f"{path} is not of this {type(module).__name__}:"
    if missing:
        raise SegkdError(
            f"{stranger} it lacks {len(missing)} of the model's {len(wanted)} keys, first "
            f"{prefix + missing[0]!r} {size_of(wanted[missing[0]])}"
            + (f", and has {len(unexpected)} others, first {prefix + unexpected[0]!r}" if unexpected else "")
        )
    if differing:
        key = differing[0]
        shapes = f"{prefix + key!r} is {size_of(state[key])} in the file and {size_of(wanted[key])} in the model"
        # The same architecture for another set of classes.
        if all(classes(key, state[key]) is not None for key in differing):
            counts = f"the file has {classes(key, state[key])} classes, the model {classes(key, wanted[key])}"
            raise SegkdError(f"{path} does not fit: {counts} ({shapes})")
        raise SegkdError(f"{stranger} {shapes}")
    for key, value in wanted.items():
        # Quantised or complex weights would be taken as if their numbers were the weights.
        if key in state and value.is_floating_point() and not state[key].is_floating_point():
            given, own = (str(tensor.dtype).removeprefix("torch.") for tensor in (state[key], value))
            raise SegkdError(f"{stranger} {prefix + key!r} is {given} in the file and {own} in the model")
    if unexpected:
        raise SegkdError(
            f"{stranger} it has {len(unexpected)} keys that the model lacks, first "
            f"{prefix + unexpected[0]!r} {size_of(state[unexpected[0]])}"
        )


def _differences(wanted: State, state: State) -> tuple[list[str], list[str], list[str]]:
    """Return the keys that are missing in ``state``, of another shape, and unexpected."""
    missing = [key for key in wanted if key not in state and not key.endswith(_COUNTER)]
    differing = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    return missing, differing, [key for key in state if key not in wanted and not key.endswith(_COUNTER)]


def load_pretrained(module: nn.Module, given: State, source: object, name: str, within: str, parts: int = 1) -> None:
    """Load classification weights into the part of the network that computes features, all of them or none.

    Keys are tried as they are, without ``within``, the prefix that they have in a file of a whole model, and in the
    spellings of timm's feature extractors and of older files. A classifier which the module lacks is passed over;
    another weight that it lacks is an error if its first ``parts`` dotted parts are known: it is of a deeper network.
    Messages have ``source`` and ``name``, such as ``encoder 'resnet18'``.
    """
    wanted = module.state_dict()
    if any(key.startswith(within) for key in given):
        given = {key.removeprefix(within): value for key, value in given.items() if key.startswith(within)}
    state = max(_spellings(given), key=lambda candidate: len(candidate.keys() & wanted.keys()))
    known = {tuple(key.split(".")[:parts]) for key in wanted}
    missing, mismatched, others = _differences(wanted, state)
    unexpected = [key for key in others if tuple(key.split(".")[:parts]) in known]
    if missing or mismatched or unexpected:
        firsts = [f"first missing {key}" for key in missing[:1]]
        for key in mismatched[:1]:
            kind = name.split()[0]
            firsts.append(f"{key} is {size_of(state[key])} in the file and {size_of(wanted[key])} in the {kind}")
        firsts += [f"first unexpected {key}" for key in unexpected[:1]]
        raise SegkdError(
            f"{source} does not fit {name}: {len(missing)} of {len(wanted)} keys missing, "
            f"{len(mismatched)} of another shape, {len(unexpected)} unexpected; {'; '.join(firsts)}"
        )
    module.load_state_dict({**wanted, **{key: value for key, value in state.items() if key in wanted}})


def _spellings(given: State) -> list[State]:
    """Return the state under each of the names that libraries give to the same tensors."""

    def flat(key: str) -> str:  # timm flattens `stages.0` to `stages_0` when a network is cut into features
        return re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", key)

    spellings: list[Callable[[str], str]] = [
        lambda key: key,
        flat,
        lambda key: f"model.{key}",  # segmentation-models-pytorch around timm
        lambda key: f"model.{flat(key)}",
        lambda key: re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key),  # torchvision's own files
    ]
    return [{spell(key): value for key, value in given.items()} for spell in spellings]


def size_of(tensor: Tensor) -> str:
    """Return a tensor's shape as messages have it, such as 64x3x3."""
    return "x".join(str(size) for size in tensor.shape) or "a scalar"
