"""What a training leaves behind: a student on disk, which opens without this project, and one that predicts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import segmentation_models_pytorch as smp
import torch
from PIL import Image
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn

from segkd.common.student import INFO_KEY, STUDENT_FILE, read_student, rgb_pixels, write_student
from segkd.errors import SegkdError
from segkd.segmentation.auxiliary import WithAuxiliary
from segkd.segmentation.encoders import normalization
from segkd.segmentation.inference import predict_logits
from segkd.segmentation.transforms import eval_transform
from segkd.segmentation.weights import AUXILIARY_FILE, load_weights


class Student(nn.Module):
    """A trained model with all that is needed to use it.

    Args:
        model: maps normalised images (B, 3, H, W) to logits; put in eval mode.
        info: ``mean`` and ``std`` of the input per channel, for pixels in [0, 1]; ``size``, the (height, width) that
            images are resized to, or None for their own; and what else was recorded: ``classes`` (names), ``colors``
            (RGB), ``ignore_index``, ``dataset``, ``version``.
    """

    def __init__(self, model: nn.Module, info: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model.eval()
        self.info = dict(info)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to logits, as the model itself does."""
        return self.model(images)

    def predict(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """Segment one image.

        Args:
            image: RGB, a PIL image or uint8 (H, W, 3), of any size.

        Returns:
            uint8 (H, W): the class of each pixel.

        Raises:
            SegkdError: an array of another shape or type.
        """
        pixels = rgb_pixels(image)
        # The validation's own transform, so that what was measured is what is used.
        resized = eval_transform(self.info.get("size")).pipeline(image=pixels)["image"]
        parameter = next(self.model.parameters())
        mean, std = (torch.tensor(self.info[key], device=parameter.device).view(3, 1, 1) for key in ("mean", "std"))
        scaled = torch.tensor(resized, device=parameter.device).permute(2, 0, 1) / 255
        images = ((scaled - mean) / std).to(parameter.dtype)[None]
        logits = predict_logits(self.model, images, (pixels.shape[0], pixels.shape[1]))
        return logits[0].argmax(0).to(torch.uint8).cpu().numpy()


def save_student(model: nn.Module, directory: str | Path, *, info: Mapping[str, Any]) -> None:
    """Write ``model.safetensors`` and ``config.json``, which `segmentation_models_pytorch.from_pretrained` opens.

    Of a `WithAuxiliary` these hold the inner model; its auxiliary head goes into ``auxiliary.safetensors`` beside
    them, so that the run can be a teacher for RDD.

    Args:
        model: a model from `build_model`.
        directory: the folder, made if absent.
        info: what `Student` describes; ``mean`` and ``std`` default to the encoder's, ``version`` to this package's.

    Raises:
        SegkdError: the model is not one of segmentation-models-pytorch, or `info` cannot be written as JSON.
    """
    inner = model.model if isinstance(model, WithAuxiliary) else model
    if not isinstance(inner, SegmentationModel):
        raise SegkdError(f"{type(inner).__name__} cannot be saved as a student: not of segmentation-models-pytorch")
    config = {
        **inner.config,
        # The weights are in the file: opening it must not fetch the encoder's first.
        "encoder_weights": None,
        "_model_class": type(inner).__name__,
        # smp passes over keys with a leading underscore.
        INFO_KEY: _complete(info, inner.config["encoder_name"]),
    }
    auxiliary = model.auxiliary if isinstance(model, WithAuxiliary) else None
    write_student(directory, {STUDENT_FILE: inner, AUXILIARY_FILE: auxiliary}, config)


def load_student(path: str | Path) -> Student:
    """Open a student: a run directory, or the ``student`` folder in it.

    Raises:
        SegkdError: there is no student, or its files are unreadable or do not belong together.
    """
    folder, (model, info) = read_student(path, "model", _build)
    load_weights(model, folder)
    return Student(model, info)


def _build(config: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    architecture = smp.MODEL_ARCHITECTURES_MAPPING[config["_model_class"].lower()]
    arguments = {key: value for key, value in config.items() if not key.startswith("_")}
    model = architecture(**{**arguments, "encoder_weights": None})
    return model, _complete(config.get(INFO_KEY, {}), arguments["encoder_name"])


def _complete(info: Mapping[str, Any], encoder: str) -> dict[str, Any]:
    mean, std = normalization(encoder)
    return {"mean": mean, "std": std, "size": None, **info}
