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


class _OfTheImageAlone:
    """A step that leaves what a teacher sees as it is."""

    def add_targets(self, additional_targets: Any) -> None:
        """Take no further images."""


class ColorJitter(_OfTheImageAlone, A.ColorJitter):
    """Random brightness, contrast, saturation and hue."""


class GaussianBlur(_OfTheImageAlone, A.GaussianBlur):
    """A random blur."""


class Transformed(NamedTuple):
    """What a transform returns."""

    image: np.ndarray  # uint8 (h, w, 3)
    # As it was given: of a mask (h, w), or as large as it was in validation; or the `Objects` that are left, in pixels
    # of the image, inside it.
    label: Any


class Transform:
    """An albumentations pipeline as a function of image, label and seed.

    In ``training`` masks go through it too, and boxes smaller than `MIN_SIDE` or less visible than `MIN_VISIBILITY` are
    dropped. In evaluation masks stay as they are, and so does every box.
    """

    def __init__(self, steps: Sequence[A.BasicTransform], training: bool):
        self.training = training
        smallest = {"min_visibility": MIN_VISIBILITY, "min_width": MIN_SIDE, "min_height": MIN_SIDE} if training else {}
        # filter_invalid_bboxes: a box so thin that it has no area in float32 would otherwise be an error.
        boxes = A.BboxParams("pascal_voc", ["kept"], clip=True, filter_invalid_bboxes=True, **smallest)
        # NoOp: without a step that takes boxes, Compose warns that there is none.
        self.pipeline = A.Compose([*steps, A.NoOp()], bbox_params=boxes, additional_targets={"second": "image"})

    def __call__(self, image: np.ndarray, label: Any = None, seed: int = 0) -> Transformed:
        """Transform one image, uint8 (H, W, 3), and its label; every random draw of this call derives from ``seed``.

        The label is an array (H, W); or `Objects`, whose boxes lie inside the image and have an area; or None.
        """
        if isinstance(label, Objects):
            return self._objects(image, label, seed)
        mask = {"mask": label} if self.training and label is not None else {}
        out = self._run(seed, image=image, **mask, **_NO_BOXES)
        return Transformed(out["image"], out.get("mask", label))

    def with_second(
        self, image: np.ndarray, second: np.ndarray, label: np.ndarray, seed: int = 0
    ) -> tuple[Transformed, np.ndarray]:
        """Transform an image with its mask as `__call__` does, and what a teacher sees instead with them.

        That, ``second``, float32 (H, W, C) in [0, 1], is cropped, flipped and scaled alike; colour jitter and blur are
        the image's alone. Its padding is 0, of RGB the mean colour.
        """
        mask = {"mask": label} if self.training else {}
        out = self._run(seed, image=image, second=second, **mask, **_NO_BOXES)
        moved = out["second"]
        padded = moved / np.float32(255) if moved.shape[2] == 3 else np.float32(0)
        return Transformed(out["image"], out.get("mask", label)), np.where(moved > 1, padded, moved)

    def _objects(self, image: np.ndarray, objects: Objects, seed: int) -> Transformed:
        count, masks = len(objects.boxes), objects.masks
        stacked = {} if masks is None or not count else {"masks": masks}
        out = self._run(seed, image=image, bboxes=objects.boxes, kept=np.arange(count), **stacked)
        kept = np.array(out["kept"], dtype=np.int64)
        if stacked:
            masks = np.asarray(out["masks"])
            masks[masks > 1] = 0  # what was padded
        elif masks is not None:
            masks = np.zeros((0, *out["image"].shape[:2]), dtype=np.uint8)
        moved = np.array(out["bboxes"], dtype=np.float32).reshape(-1, 4)
        return Transformed(out["image"], objects._replace(masks=masks).select(kept)._replace(boxes=moved))

    def _run(self, seed: int, **data: Any) -> dict[str, Any]:
        # One generator for the whole pipeline: Compose.set_random_seed gives every transform its own generator with
        # the same seed, so that the draw that makes the scale small would also put the crop at the top.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self.pipeline(**data)


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
    if color_jitter:
        factor = (1 - color_jitter, 1 + color_jitter)
        steps.append(ColorJitter(factor, factor, factor, (-color_jitter / 5, color_jitter / 5), p=1.0))
    if blur:
        steps.append(GaussianBlur(sigma_limit=(0.0, 1.0), p=blur))
    return Transform(steps, training=True)


def eval_transform(resize: Sequence[int] | None = None) -> Transform:
    """Build the validation transform: image and boxes are resized to ``(height, width)``; a mask keeps its own size."""
    return Transform([] if resize is None else [_resize(resize)], training=False)


def _resize(size: Sequence[int]) -> A.Resize:
    return A.Resize(*_size("resize", size), **_INTERPOLATION)


def _size(name: str, size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise SegkdError(f"{name} must be [height, width] in pixels, got {list(size)}")
    return int(size[0]), int(size[1])
