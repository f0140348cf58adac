"""What a training leaves behind: a student on disk, which opens without this project, and one that predicts."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from segmentation_models_pytorch.base import SegmentationModel
from torch import Tensor, nn

from segkd.common.description import check_info
from segkd.common.student import INFO_KEY, STUDENT_FILE, read_student, rgb_pixels, write_student
from segkd.errors import SegkdError
from segkd.segmentation.auxiliary import WithAuxiliary
from segkd.segmentation.description import CLASS_KEY, build
from segkd.segmentation.encoders import normalization
from segkd.segmentation.inference import Size, predict_classes
from segkd.segmentation.transforms import eval_transform
from segkd.segmentation.weights import AUXILIARY_FILE, load_weights

AT_ONCE = 2**24
"""Pixels that go through the model together, unless they are of one image."""


class Student(nn.Module):
    """A trained model with all that is needed to use it.

    Args:
        model: maps normalised images (B, 3, H, W) to logits; put in eval mode.
        info: ``mean`` and ``std`` of the input per channel, for pixels in [0, 1]; ``size``, the (height, width) that
            images are resized to, or None for their own; ``window``, if any, that sliding inference takes unless told
            otherwise; and what else was recorded: ``classes`` (names), ``colors`` (RGB), ``ignore_index``,
            ``dataset``, ``version``.
    """

    def __init__(self, model: nn.Module, info: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model.eval()
        self.info = dict(info)

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images (B, 3, H, W) to logits, as the model itself does."""
        return self.model(images)

    def predict(self, image: np.ndarray | Image.Image, **options: Any) -> np.ndarray:
        """Segment one image.

        Args:
            image: RGB, a PIL image (read upright, by its orientation tag) or uint8 (H, W, 3), of any size.
            options: those of `predict_batch`.

        Returns:
            uint8 (H, W): the class of each pixel.

        Raises:
            SegkdError: as `predict_batch`.
        """
        return self.predict_batch([image], **options)[0]

    def predict_batch(
        self,
        images: Sequence[np.ndarray | Image.Image],
        *,
        mode: str = "whole",
        window: int | Size | None = None,
        stride: int | Size | None = None,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
    ) -> list[np.ndarray]:
        """Segment several images; those that have one size when the model sees them go through it together.

        Args:
            images: RGB, PIL images (read upright) or uint8 (H, W, 3), each of any size.
            mode: ``whole`` image or ``sliding`` window.
            window: sliding: height and width, or one number for both, in pixels of the image that the model sees;
                ``info["window"]`` unless given.
            stride: sliding: steps down and across, or one number for both; two thirds of the window unless given.
            flip: whether the mirrored image is read too.
            scales: the image is read at its usual size times each of these. Of several readings, mirrored ones among
                them, the mean of the softmax probabilities at the image's own size decides.

        Returns:
            Of each image uint8 (H, W): the class of each pixel.

        Raises:
            SegkdError: an array of another shape or type, a scale that is no number above 0, or what `predict_logits`
                says of mode, window and stride.
        """
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise SegkdError(f"scales must be one or more numbers above 0, got {list(scales)}")
        window = self.info.get("window") if window is None else window
        pixels = [rgb_pixels(image) for image in images]
        sizes = [(image.shape[0], image.shape[1]) for image in pixels]
        groups: dict[Size, list[int]] = {}
        for index, own in enumerate(sizes):
            height, width = self.info.get("size") or own
            groups.setdefault((height, width), []).append(index)
        masks: dict[int, np.ndarray] = {}
        of_pixels = _OfPixels(self)
        for (height, width), members in groups.items():
            scaled = [(max(round(height * scale), 1), max(round(width * scale), 1)) for scale in scales]
            at_once = max(AT_ONCE // (height * width), 1)
            for some in (members[start : start + at_once] for start in range(0, len(members), at_once)):
                views = (of_pixels.view([pixels[i] for i in some], size) for size in scaled)
                found = predict_classes(of_pixels, views, [sizes[i] for i in some], mode, window, stride, flip)
                masks |= {i: mask.cpu().numpy() for i, mask in zip(some, found, strict=True)}
        return [masks[i] for i in range(len(pixels))]


class _OfPixels(nn.Module):
    """A student's model on RGB pixels in 0 to 255: normalised window by window, they are never all in memory as float.

    Args:
        student: whose model it is.
    """

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.model = student.model
        parameter = next(self.model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        self.mean, self.std = (
            torch.tensor(student.info[key], device=self.device).view(3, 1, 1) for key in ("mean", "std")
        )

    def view(self, images: list[np.ndarray], size: Size) -> Tensor:
        """Return images at the size that the model sees, uint8 (B, 3, *size)."""
        # The validation's own transform, so that what was measured is what is used.
        resize = eval_transform(size).pipeline
        batch = torch.from_numpy(np.stack([resize(image=image)["image"] for image in images]))
        return batch.to(self.device).permute(0, 3, 1, 2)

    def forward(self, pixels: Tensor) -> Any:
        """Normalise pixels (B, 3, H, W) and run the model."""
        return self.model(((pixels / 255 - self.mean) / self.std).to(self.dtype))


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
        CLASS_KEY: type(inner).__name__,
        # smp passes over keys with a leading underscore.
        INFO_KEY: _complete(info, inner.config["encoder_name"]),
    }
    auxiliary = model.auxiliary if isinstance(model, WithAuxiliary) else None
    write_student(directory, {STUDENT_FILE: inner, AUXILIARY_FILE: auxiliary}, config)


def load_student(path: str | Path) -> Student:
    """Open a student: a run directory, or the ``student`` folder in it.

    Folders of strangers may be opened: nothing in one can name code to run or a place to fetch something from.

    Raises:
        SegkdError: there is no student, its files are unreadable or do not belong together, or a value in them is
            none that a student has.
    """
    folder, model, info = build_student(path)
    load_weights(model, folder)
    return Student(model, info)


def build_student(path: str | Path) -> tuple[Path, nn.Module, dict[str, Any]]:
    """Return a saved student's folder, its model with random weights, and the info of `Student`.

    Raises:
        SegkdError: there is no student, or its description is unreadable or wrong.
    """
    folder, (model, info) = read_student(path, "model", _build)
    return folder, model, info


def _build(config: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    info = config.get(INFO_KEY, {})
    model = build(config)
    return model, _complete(check_info(info, INFO_KEY, "segmentation", config["classes"]), config["encoder_name"])


def _complete(info: Mapping[str, Any], encoder: str) -> dict[str, Any]:
    mean, std = normalization(encoder)
    return {"mean": mean, "std": std, "size": None, **info}
