"""Augmentation by albumentations: uint8 in, uint8 out, and nothing drawn that its seed does not determine."""

import os
import random
from collections.abc import Sequence

# Set before the import: albumentations asks a server for its newest version when imported.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np

from segkd.errors import SegkdError

MEAN_COLOR = (124, 116, 104)
"""ImageNet's mean RGB colour, which padding is filled with."""


class Transform:
    """An albumentations pipeline as a function of image, mask and seed.

    Args:
        pipeline: what is applied.
        with_mask: whether the mask goes through the pipeline too, or stays as it is.
    """

    def __init__(self, pipeline: A.Compose, with_mask: bool):
        self.pipeline = pipeline
        self.with_mask = with_mask

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Transform one pair.

        Args:
            image: uint8 (H, W, 3).
            mask: uint8 (H, W).
            seed: what every random draw of this call derives from.

        Returns:
            Image uint8 (h, w, 3) and mask uint8.
        """
        # One generator for the whole pipeline: Compose.set_random_seed gives every transform its own generator with
        # the same seed, so that the draw that makes the scale small would also put the crop at the top.
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        if not self.with_mask:
            return self.pipeline(image=image)["image"], mask
        out = self.pipeline(image=image, mask=mask)
        return out["image"], out["mask"]


def train_transform(
    crop: Sequence[int],
    *,
    resize: Sequence[int] | None = None,
    scale: Sequence[float] = (1.0, 1.0),
    flip: float = 0.5,
    color_jitter: float = 0.0,
    ignore_index: int = 255,
) -> Transform:
    """Build the training transform: resize, random scale, pad and random crop, flip, colour jitter, in this order.

    Args:
        crop: height and width of what comes out, in pixels.
        resize: height and width that every pair is brought to first; None leaves the size as it is.
        scale: smallest and largest factor of the random scale; ``(1, 1)`` turns it off.
        flip: probability of a horizontal flip, 0 to 1.
        color_jitter: largest relative change of brightness, contrast and saturation, 0 to 1; hue moves by up to a
            fifth of it. 0 turns it off.
        ignore_index: what padding is labelled as; padded pixels get the mean colour.

    Raises:
        SegkdError: a value out of range.
    """
    height, width = _size("crop", crop)
    steps: list[A.BasicTransform] = []
    if resize is not None:
        steps.append(_resize(resize))
    if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
        raise SegkdError(f"scale must be [smallest, largest] with 0 < smallest <= largest, got {list(scale)}")
    if tuple(scale) != (1, 1):
        steps.append(
            A.RandomScale(
                (scale[0] - 1, scale[1] - 1),
                interpolation=cv2.INTER_LINEAR,
                mask_interpolation=cv2.INTER_NEAREST_EXACT,
                area_for_downscale="image",
                p=1.0,
            )
        )
    steps.append(
        A.RandomCrop(
            height, width, pad_if_needed=True, pad_position="random", fill=MEAN_COLOR, fill_mask=ignore_index, p=1.0
        )
    )
    for name, value in (("flip", flip), ("color_jitter", color_jitter)):
        if not 0 <= value <= 1:
            raise SegkdError(f"{name} must lie in 0 to 1, got {value}")
    if flip:
        steps.append(A.HorizontalFlip(p=flip))
    if color_jitter:
        factor = (1 - color_jitter, 1 + color_jitter)
        steps.append(A.ColorJitter(factor, factor, factor, (-color_jitter / 5, color_jitter / 5), p=1.0))
    return Transform(A.Compose(steps), with_mask=True)


def eval_transform(resize: Sequence[int] | None = None) -> Transform:
    """Build the validation transform: the image is resized to ``(height, width)``, the mask keeps its own resolution.

    Raises:
        SegkdError: a size that is not two positive numbers.
    """
    return Transform(A.Compose([] if resize is None else [_resize(resize)]), with_mask=False)


def _resize(size: Sequence[int]) -> A.Resize:
    height, width = _size("resize", size)
    # NEAREST_EXACT keeps pixel centres where LINEAR and AREA put them; plain NEAREST is half a pixel off.
    return A.Resize(height, width, cv2.INTER_LINEAR, cv2.INTER_NEAREST_EXACT, area_for_downscale="image", p=1.0)


def _size(name: str, size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise SegkdError(f"{name} must be [height, width] in pixels, got {list(size)}")
    return int(size[0]), int(size[1])
