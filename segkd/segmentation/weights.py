"""Reading weights from a file into a segmentation model or its encoder."""

from pathlib import Path

from torch import Tensor, nn

from segkd.common.student import STUDENT_FILE, student_dir
from segkd.common.weights import check_fit, load_pretrained, read_state_dict
from segkd.segmentation.auxiliary import WithAuxiliary

#: Where the auxiliary head of a saved student lies in its folder.
AUXILIARY_FILE = "auxiliary.safetensors"


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
    check_fit(inner, state, file, classes=lambda key, value: _rows(key, value, "segmentation_head."))
    if isinstance(model, WithAuxiliary) and auxiliary:
        check_fit(model.auxiliary, auxiliary, file, "auxiliary.", lambda key, value: _rows(key, value, "4."))
        model.auxiliary.load_state_dict(auxiliary)
    inner.load_state_dict(state)
    return isinstance(model, WithAuxiliary) and bool(auxiliary)


def load_encoder_weights(encoder: nn.Module, path: str | Path, name: str) -> None:
    """Load a file of classification weights into an encoder, see `segkd.common.weights.load_pretrained`.

    Stages of the file past the encoder's depth are passed over.

    Args:
        encoder: an encoder of segmentation-models-pytorch.
        path: the file, also of a whole segmentation model.
        name: the encoder's name, for messages.

    Raises:
        SegkdError: the file is missing, unreadable, or does not hold this encoder.
    """
    # A timm encoder cut short lacks `blocks.5` while it has `blocks`; otherwise a part with a known name must fit.
    cut_short = getattr(encoder, "_depth", 5) < 5
    parts = 3 if cut_short else 2 if "model." in next(iter(encoder.state_dict()), "") else 1
    load_pretrained(encoder, read_state_dict(path), path, f"encoder {name!r}", within="encoder.", parts=parts)


def _rows(key: str, value: Tensor, classifier: str) -> int | None:
    """The outputs of a tensor of the classifier, one per class."""
    return value.shape[0] if key.startswith(classifier) else None
