"""What a training leaves behind: a detector on disk, and one that predicts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from PIL import Image
from pydantic import Field
from torch import nn

from segkd.common.description import Deviation, Mean, NetworkName, Pixels, Text, check_info, check_keys, setting
from segkd.common.student import INFO_KEY, STUDENT_FILE, read_student, rgb_pixels, write_student
from segkd.detection.models import build_detector, detect
from segkd.detection.weights import load_weights
from segkd.errors import SegkdError

# What config.json may say of a detector; weights to start from, which could be fetched, are not among it.
_KINDS: dict[str, Any] = {
    "arch": Text,
    "backbone": NetworkName,
    "num_classes": Annotated[int, Field(ge=1, le=2**16)],
    "min_size": Pixels | Annotated[list[Pixels], Field(min_length=1)],
    "max_size": Pixels,
    "normalization": tuple[Mean, Deviation],
    "norm": Text,
    "options": setting(dict[Text, int | float | str]),
}


class DetectionStudent(nn.Module):
    """A trained detector with all that is needed to use it.

    Args:
        model: a detector from `build_detector`; put in eval mode.
        info: what was recorded: ``task`` (``detection``), ``classes`` (names; label 1 is the first), ``colors`` (RGB),
            ``dataset``, ``version``.
    """

    def __init__(self, model: nn.Module, info: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model.eval()
        self.info = dict(info)

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        """Return the detections in images (3, H, W) with values in [0, 1], as the model itself does."""
        return self.model(images)

    def predict(self, image: np.ndarray | Image.Image) -> dict[str, np.ndarray]:
        """Find the objects in one image.

        Args:
            image: RGB, a PIL image (read upright, by its orientation tag) or uint8 (H, W, 3), of any size.

        Returns:
            ``boxes``, float32 (N, 4), xyxy in the image's pixels; ``labels``, int64 (N,) in 1..K; ``scores``, float32
            (N,) in [0, 1], best first.

        Raises:
            SegkdError: an array of another shape or type.
        """
        return self.predict_batch([image])[0]

    @torch.no_grad()
    def predict_batch(self, images: Sequence[np.ndarray | Image.Image]) -> list[dict[str, np.ndarray]]:
        """Find the objects in several images; those of one size go through the model together.

        Args:
            images: RGB, PIL images (read upright) or uint8 (H, W, 3), each of any size.

        Returns:
            What `predict` returns of each.

        Raises:
            SegkdError: an array of another shape or type.
        """
        parameter = next(self.model.parameters())
        pixels = [rgb_pixels(image) for image in images]
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(pixels):
            groups.setdefault(image.shape, []).append(index)
        results: dict[int, dict[str, np.ndarray]] = {}
        # Of one size only: beside a larger image the smaller would be padded, which moves its boxes a little.
        for members in groups.values():
            tensors = [torch.tensor(pixels[i], device=parameter.device).permute(2, 0, 1) for i in members]
            found = detect(self.model, [tensor.to(parameter.dtype) / 255 for tensor in tensors])
            results |= {i: _as_arrays(each) for i, each in zip(members, found, strict=True)}
        return [results[i] for i in range(len(pixels))]


def save_student(model: nn.Module, directory: str | Path, *, info: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json``, from which `load_student` builds the detector again.

    Args:
        model: a detector from `build_detector`.
        directory: the folder, made if absent.
        info: what `DetectionStudent` describes; ``task`` and this package's ``version`` are added.

    Raises:
        SegkdError: the model is not from `build_detector`, or `info` cannot be written as JSON.
    """
    config = getattr(model, "config", None)
    if not isinstance(config, dict):
        raise SegkdError(f"{type(model).__name__} cannot be saved as a student: not from build_detector")
    write_student(directory, {STUDENT_FILE: model}, {**config, INFO_KEY: {"task": "detection", **info}})


def load_student(path: str | Path) -> DetectionStudent:
    """Open a student: a run directory, or the ``student`` folder in it.

    Folders of strangers may be opened: nothing in one can name code to run or a place to fetch something from.

    Raises:
        SegkdError: there is no student, its files are unreadable or do not belong together, or a value in them is
            none that a student has.
    """
    folder, model, info = build_student(path)
    load_weights(model, folder)
    return DetectionStudent(model, info)


def build_student(path: str | Path, **changes: Any) -> tuple[Path, nn.Module, dict[str, Any]]:
    """Return a saved student's folder, its detector with random weights, and the info of `DetectionStudent`.

    Args:
        path: a run directory, or the ``student`` folder in it.
        changes: arguments of `build_detector` that are to be others, such as ``min_size``.

    Raises:
        SegkdError: there is no student, or its description is unreadable or wrong.
    """
    folder, (model, info) = read_student(path, "detector", lambda config: _build({**config, **changes}))
    return folder, model, info


def _build(config: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    given = {key: value for key, value in config.items() if key != INFO_KEY}
    check_keys(given, _KINDS, required=("arch", "backbone", "num_classes"))
    info = check_info(config.get(INFO_KEY), INFO_KEY, "detection", given["num_classes"])
    return build_detector(**given), info


def _as_arrays(found: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    boxes, labels, scores = (found[key].cpu() for key in ("boxes", "labels", "scores"))
    return {"boxes": boxes.float().numpy(), "labels": labels.numpy(), "scores": scores.float().numpy()}
