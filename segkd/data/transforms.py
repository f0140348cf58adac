"""Augmentation of an image and its label together, by albumentations: nothing is drawn that its seed does not say."""

import os
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

# Set before the import: albumentations asks a server for its newest version when imported.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np

from segkd.data.annotations import Objects
from segkd.errors import SegkdError

MEAN_COLOR = (124, 116, 104)
"""ImageNet's mean RGB colour, which padding is filled with."""

MIN_SIDE = 1.0
"""Width and height in pixels below which training drops a box: no detector here has cells or bins that fine."""

MIN_VISIBILITY = 0.1
"""Share of a box that must be left after a crop for training to keep it: less shows too little of the object."""

# NEAREST_EXACT keeps pixel centres where LINEAR and AREA put them; plain NEAREST is half a pixel off.
_INTERPOLATION: dict[str, Any] = {
    "interpolation": cv2.INTER_LINEAR,
    "mask_interpolation": cv2.INTER_NEAREST_EXACT,
    "area_for_downscale": "image",
    "p": 1.0,
}

# Compose wants boxes where it knows how to move some.
_NO_BOXES = {"bboxes": np.zeros((0, 4), dtype=np.float32), "kept": np.arange(0)}


class Transformed(NamedTuple):
    """What a transform returns."""

    image: np.ndarray  # uint8 (h, w, 3)
    # As it was given: of a mask (h, w), or as large as it was in validation; or the `Objects` that are left, in pixels
    # of the image, inside it.
    label: Any


Crop = tuple[float, float, float, float]
"""Left, top, right and bottom of what came out, in the image that went in, as shares of its width and height.

Mirrored, left is above right; below 0 and above 1 is padding.
"""


class Transform:
    """An albumentations pipeline as a function of image, label and seed.

    In ``training`` masks go through it too, and boxes smaller than `MIN_SIDE` or less visible than `MIN_VISIBILITY` are
    dropped. In evaluation masks stay as they are, and so does every box. ``jitter`` are steps that come last and change
    the image's colours alone. With ``crops`` it says where in the image what comes out lies.
    """

    def __init__(
        self,
        steps: Sequence[A.BasicTransform],
        training: bool,
        jitter: Sequence[A.ImageOnlyTransform] = (),
        crops: bool = False,
    ) -> None:
        self.training, self.jitter = training, list(jitter)
        smallest = {"min_visibility": MIN_VISIBILITY, "min_width": MIN_SIDE, "min_height": MIN_SIDE} if training else {}
        # filter_invalid_bboxes: a box so thin that it has no area in float32 would otherwise be an error.
        boxes = A.BboxParams("pascal_voc", ["kept"], clip=True, filter_invalid_bboxes=True, **smallest)
        # NoOp: without a step that takes boxes, Compose warns that there is none.
        self.pipeline = A.Compose(list(steps) or [A.NoOp()], bbox_params=boxes, additional_targets={"second": "image"})
        self.crops = crops
        if crops:  # the image's corners, of which most lie outside what comes out
            corners = A.KeypointParams("xy", remove_invisible=False)
            self.pipeline = A.Compose(self.pipeline.transforms, boxes, corners, {"second": "image"})

    def with_crops(self) -> "Transform":
        """Return the same transform with ``crops``."""
        return Transform(self.pipeline.transforms, self.training, self.jitter, crops=True)

    def __call__(self, image: np.ndarray, label: Any = None, seed: int = 0) -> Transformed:
        """Transform one image, uint8 (H, W, 3), and its label; every random draw of this call derives from ``seed``.

        The label is an array (H, W); or `Objects`, whose boxes lie inside the image and have an area; or None.
        """
        return self.apart(image, label, seed)[0]

    def apart(
        self,
        image: np.ndarray,
        label: Any = None,
        seed: int = 0,
        second: np.ndarray | None = None,
        jitter_seed: int | None = None,
    ) -> tuple[Transformed, np.ndarray, Crop | None]:
        """Transform an image with its label as `__call__` does; return beside them what has no jitter, and the crop.

        What has no jitter is the image before its jitter, uint8; or ``second``, float32 (H, W, C) in [0, 1], cropped,
        flipped and scaled as the image is, whose padding is 0, of RGB the mean colour. With a ``jitter_seed`` the
        jitter is drawn of that.
        """
        draws = _generators(seed)
        # One generator for the whole pipeline: Compose.set_random_seed gives every transform its own generator with
        # the same seed, so that the draw that makes the scale small would also put the crop at the top.
        self.pipeline.set_random_state(*draws)
        data = {"image": image} if second is None else {"image": image, "second": second}
        if self.crops:
            data["keypoints"] = np.array([(0, 0), image.shape[1::-1]], dtype=np.float64)
        if isinstance(label, Objects):
            out, label = self._with_objects(data, label)
        else:
            masks = {"mask": label} if self.training and label is not None else {}
            out = self.pipeline(**data, **masks, **_NO_BOXES)
            label = out.get("mask", label)
        crop = _crop(out["keypoints"], out["image"].shape) if self.crops else None
        jittered, own = out["image"], draws if jitter_seed is None else _generators(jitter_seed)
        for step in self.jitter:
            step.set_random_state(*own)
            jittered = step(image=jittered)["image"]
        seen = out["image"] if second is None else _in_unit(out["second"])
        return Transformed(jittered, label), seen, crop

    def _with_objects(self, data: dict[str, Any], objects: Objects) -> tuple[dict[str, Any], Objects]:
        count, masks = len(objects.boxes), objects.masks
        stacked = {} if masks is None or not count else {"masks": masks}
        out = self.pipeline(**data, bboxes=objects.boxes, kept=np.arange(count), **stacked)
        kept = np.array(out["kept"], dtype=np.int64)
        if stacked:
            masks = np.asarray(out["masks"])
            masks[masks > 1] = 0  # what was padded
        elif masks is not None:
            masks = np.zeros((0, *out["image"].shape[:2]), dtype=np.uint8)
        moved = np.array(out["bboxes"], dtype=np.float32).reshape(-1, 4)
        return out, objects._replace(masks=masks).select(kept)._replace(boxes=moved)


def _generators(seed: int) -> tuple[np.random.Generator, random.Random]:
    return np.random.default_rng(seed), random.Random(seed)


def _crop(corners: Any, size: Sequence[int]) -> Crop:
    """Return the crop of an output of this size, (height, width, ...), from where the image's corners have gone."""
    (left, top), (right, bottom) = np.asarray(corners, dtype=np.float64).tolist()
    # Albumentations scales by the factor that was drawn, though the image has whole pixels; and it mirrors a corner as
    # if it were a pixel, so that x goes to width - 1 - x.
    width, height = int(abs(right - left) + 1e-3), int(bottom - top + 1e-3)
    if right < left:
        left, width = left + 1, -width
    return -left / width, -top / height, (size[1] - left) / width, (size[0] - top) / height


def _in_unit(moved: np.ndarray) -> np.ndarray:
    """Return pixels in [0, 1], of which those above are padded."""
    padded = moved / np.float32(255) if moved.shape[2] == 3 else np.float32(0)
    return np.where(moved > 1, padded, moved)


def train_transform(
    crop: Sequence[int] | None = None,
    *,
    resize: Sequence[int] | None = None,
    scale: Sequence[float] = (1.0, 1.0),
    flip: float = 0.5,
    color_jitter: float = 0.0,
    ignore_index: int = 255,
    blur: float = 0.0,
) -> Transform:
    """Build the training transform: resize, random scale, pad and random crop, flip, colour jitter, blur, in order.

    Boxes are clipped to the crop; `MIN_SIDE` and `MIN_VISIBILITY` say which are dropped. An image whose boxes are all
    dropped is background.

    Args:
        crop: height and width of what comes out, in pixels; None leaves them as they are.
        resize: height and width that every image is brought to first; None leaves the size as it is.
        scale: smallest and largest factor of the random scale; ``(1, 1)`` turns it off.
        flip: probability of a horizontal flip, 0 to 1.
        color_jitter: largest relative change of brightness, contrast and saturation, 0 to 1; hue moves by up to a
            fifth of it. 0 turns it off.
        ignore_index: what padding is labelled as; padded pixels get the mean colour.
        blur: probability of a Gaussian blur, whose sigma is drawn from 0 to 1 pixels.
    """
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise SegkdError(f"scale must be [smallest, largest] with 0 < smallest <= largest, got {list(scale)}")
    for name, value in (("flip", flip), ("color_jitter", color_jitter), ("blur", blur)):
        if not 0 <= value <= 1:
            raise SegkdError(f"{name} must lie in 0 to 1, got {value}")
    steps: list[A.BasicTransform] = [] if resize is None else [_resize(resize)]
    if tuple(scale) != (1, 1):
        steps.append(A.RandomScale((scale[0] - 1, scale[1] - 1), **_INTERPOLATION))
    if crop is not None:
        padding = {"pad_if_needed": True, "pad_position": "random", "fill": MEAN_COLOR, "fill_mask": ignore_index}
        steps.append(A.RandomCrop(*_size("crop", crop), **padding, p=1.0))
    if flip:
        steps.append(A.HorizontalFlip(p=flip))
    jitter: list[A.ImageOnlyTransform] = []
    if color_jitter:
        factor = (1 - color_jitter, 1 + color_jitter)
        jitter.append(A.ColorJitter(factor, factor, factor, (-color_jitter / 5, color_jitter / 5), p=1.0))
    if blur:
        jitter.append(A.GaussianBlur(sigma_limit=(0.0, 1.0), p=blur))
    return Transform(steps, training=True, jitter=jitter)


def eval_transform(resize: Sequence[int] | None = None) -> Transform:
    """Build the validation transform: image and boxes are resized to ``(height, width)``; a mask keeps its own size."""
    return Transform([] if resize is None else [_resize(resize)], training=False)


def _resize(size: Sequence[int]) -> A.Resize:
    return A.Resize(*_size("resize", size), **_INTERPOLATION)


def _size(name: str, size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise SegkdError(f"{name} must be [height, width] in pixels, got {list(size)}")
    return int(size[0]), int(size[1])
