"""Reading weights from a file into a model, strictly, and saying in one line what does not fit."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from segkd.errors import SegkdError, nearest
from segkd.segmentation.auxiliary import WithAuxiliary
from segkd.segmentation.encoders import WEIGHT_SUFFIXES

State = dict[str, Tensor]

#: Where the weights and the auxiliary head of a saved student lie in its folder.
STUDENT_FILE, AUXILIARY_FILE = "model.safetensors", "auxiliary.safetensors"


def load_weights(model: nn.Module, path: str | Path) -> bool:
    """Load weights into `model`, all of them or none.

    Args:
        model: a model from `build_model`, with or without auxiliary head.
        path: a .safetensors, .pth, .pt or .bin file, a Lightning checkpoint of this project, a run directory, or the
            ``student`` folder in it.

    Returns:
        Whether `model` has an auxiliary head and the file held its weights. False with a `WithAuxiliary` model means
        that its auxiliary head is as it was before, most likely untrained.

    Raises:
        SegkdError: the file is missing, unreadable, or of another architecture or number of classes.
    """
    file = student_dir(path) / STUDENT_FILE if Path(path).is_dir() else Path(path)
    state = read_state_dict(file)
    auxiliary = {key.removeprefix("auxiliary."): value for key, value in state.items() if key.startswith("auxiliary.")}
    if auxiliary:  # saved from a WithAuxiliary, whose inner model is `model`
        state = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    elif file.name == STUDENT_FILE and (file.parent / AUXILIARY_FILE).is_file():
        auxiliary = read_state_dict(file.parent / AUXILIARY_FILE)
    inner = model.model if isinstance(model, WithAuxiliary) else model
    assert isinstance(inner, nn.Module)
    _check_fit(inner, state, file)
    if isinstance(model, WithAuxiliary) and auxiliary:
        _check_fit(model.auxiliary, auxiliary, file, "auxiliary.")
        model.auxiliary.load_state_dict(auxiliary)
    inner.load_state_dict(state)
    return isinstance(model, WithAuxiliary) and bool(auxiliary)


def load_encoder_weights(encoder: nn.Module, path: str | Path, name: str) -> None:
    """Load a file of classification weights into an encoder.

    Keys are tried as they are, without ``encoder.`` or ``module.``, and with timm's prefix ``model.``. A classifier
    which the encoder lacks is passed over, as are stages past the encoder's depth.

    Args:
        encoder: an encoder of segmentation-models-pytorch.
        path: the file.
        name: the encoder's name, for messages.

    Raises:
        SegkdError: the file is missing, unreadable, or does not hold this encoder.
    """
    given, wanted = read_state_dict(path), encoder.state_dict()
    if any(key.startswith("encoder.") for key in given):  # a whole segmentation model
        given = {key.removeprefix("encoder."): value for key, value in given.items() if key.startswith("encoder.")}
    # timm flattens `stages.0` to `stages_0` when a network is cut into features.
    spellings: list[Callable[[str], str]] = [
        lambda key: key,
        lambda key: f"model.{key}",
        lambda key: "model." + re.sub(r"^(\w+)\.(\d+)\.", r"\1_\2.", key),
    ]
    spelled = [{spell(key): value for key, value in given.items()} for spell in spellings]
    state = max(spelled, key=lambda candidate: len(candidate.keys() & wanted.keys()))
    # Batch norm's step counter is absent from older files and unused.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    mismatched = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    # A timm encoder cut short lacks `blocks.5` while it has `blocks`; otherwise a part with a known name must fit.
    parts = 3 if getattr(encoder, "_depth", 5) < 5 else 2 if "model." in next(iter(wanted), "") else 1
    known = {_stem(key, parts) for key in wanted}
    unexpected = [key for key in state if key not in wanted and _stem(key, parts) in known]
    if missing or mismatched or unexpected:
        firsts = [f"first missing {missing[0]}"] if missing else []
        if mismatched:
            key = mismatched[0]
            firsts.append(f"{key} is {_shape(state[key])} in the file and {_shape(wanted[key])} in the encoder")
        if unexpected:
            firsts.append(f"first unexpected {unexpected[0]}")
        raise SegkdError(
            f"{path} does not fit encoder {name!r}: {len(missing)} of {len(wanted)} keys missing, "
            f"{len(mismatched)} of another shape, {len(unexpected)} unexpected; {'; '.join(firsts)}"
        )
    fitting = {key: value for key, value in state.items() if key in wanted}
    encoder.load_state_dict({**wanted, **fitting})


def student_dir(path: str | Path) -> Path:
    """Return the folder of a saved student, given it or its run directory.

    Raises:
        SegkdError: there is none.
    """
    for folder in (Path(path) / "student", Path(path)):
        if (folder / STUDENT_FILE).is_file():
            return folder
    if not Path(path).exists():
        raise SegkdError(f"{path}: no such folder; expected a run directory or its student/ folder")
    raise SegkdError(f"{path} holds no {STUDENT_FILE} and no student/{STUDENT_FILE}: not a finished run or a student")


def read_state_dict(path: str | Path) -> State:
    """Read a state dict from a file without unpickling anything but tensors, wrappers taken off.

    Of a Lightning checkpoint of this project it is the student's part.

    Raises:
        SegkdError: the file is missing, unreadable, of an unknown kind, or holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise SegkdError(f"{path}: no such file (weights to load)")
    if path.suffix not in WEIGHT_SUFFIXES:
        raise SegkdError(f"{path}: unknown kind of file {path.suffix!r}; {nearest(path.suffix, WEIGHT_SUFFIXES)}")
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    # A broken or hostile file makes zipfile, pickle or torch fail in their own ways: all mean that it is unreadable.
    except Exception as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise SegkdError(f"{path} is not a readable weights file ({type(error).__name__}: {reason})") from error
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
    return state


def _check_fit(module: nn.Module, state: State, path: Path, prefix: str = "") -> None:
    """Raise `SegkdError` at the first key that is missing, unexpected, or of another shape."""
    wanted = module.state_dict()
    name = type(module).__name__
    differing = [key for key, value in wanted.items() if key in state and state[key].shape != value.shape]
    missing = [key for key in wanted if key not in state]
    unexpected = [key for key in state if key not in wanted]
    if missing:
        raise SegkdError(
            f"{path} is not of this {name}: it lacks {len(missing)} of the model's {len(wanted)} keys, first "
            f"{prefix + missing[0]!r} {_shape(wanted[missing[0]])}"
            + (f", and has {len(unexpected)} others, first {prefix + unexpected[0]!r}" if unexpected else "")
        )
    if differing:
        key = differing[0]
        shapes = f"{prefix + key!r} is {_shape(state[key])} in the file and {_shape(wanted[key])} in the model"
        # Only the last layer differs: the same architecture for another set of classes.
        if all(k.startswith("segmentation_head.") or (prefix and k.startswith("4.")) for k in differing):
            classes = f"the file has {state[key].shape[0]} classes, the model {wanted[key].shape[0]}"
            raise SegkdError(f"{path} does not fit: {classes} ({shapes})")
        raise SegkdError(f"{path} is not of this {name}: {shapes}")
    if unexpected:
        key = unexpected[0]
        raise SegkdError(
            f"{path} is not of this {name}: it has {len(unexpected)} keys that the model lacks, first "
            f"{prefix + key!r} {_shape(state[key])}"
        )


def _stem(key: str, parts: int) -> str:
    return ".".join(key.split(".")[:parts])


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a scalar"
