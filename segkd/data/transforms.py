"""Augmentation by albumentations: uint8 in, uint8 out, and nothing drawn that its seed does not determine."""

import os
import random
from collections.abc import Sequence
from typing import Any

# Set before the import: albumentations asks a server for its newest version when imported.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np

from segkd.errors import SegkdError

MEAN_COLOR = (124, 116, 104)
"""ImageNet's mean RGB colour, which padding is filled with."""


def apply(pipeline: A.Compose, seed: int, **data: Any) -> dict[str, Any]:
    """Run a pipeline on ``data``, every random draw of it derived from ``seed``."""
    # One generator for the whole pipeline: Compose.set_random_seed gives every transform its own generator with
    # the same seed, so that the draw that makes the scale small would also put the crop at the top.
    pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return pipeline(**data)


def train_steps(
    crop: Sequence[int] | None,
    resize: Sequence[int] | None,
    scale: Sequence[float],
    flip: float,
    color_jitter: float,
    fill_mask: int = 0,
    blur: float = 0.0,
) -> list[A.BasicTransform]:
    """Return the steps of training: resize, random scale, pad and random crop, flip, colour jitter, blur, in order.

    Args:
        crop: height and width of what comes out, in pixels; None leaves them as they are.
        resize: height and width that every image is brought to first; None leaves the size as it is.
        scale: smallest and largest factor of the random scale; ``(1, 1)`` turns it off.
        flip: probability of a horizontal flip, 0 to 1.
        color_jitter: largest relative change of brightness, contrast and saturation, 0 to 1; hue moves by up to a
            fifth of it. 0 turns it off.
        fill_mask: what padding is in masks; padded pixels get the mean colour.
        blur: probability of a Gaussian blur, whose sigma is drawn from 0 to 1 pixels.

    Raises:
        SegkdError: a value out of range.
    """
    steps: list[A.BasicTransform] = [] if resize is None else [resize_step(resize)]
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
    if crop is not None:
        height, width = _size("crop", crop)
        steps.append(
            A.RandomCrop(
                height, width, pad_if_needed=True, pad_position="random", fill=MEAN_COLOR, fill_mask=fill_mask, p=1.0
            )
        )
    for name, value in (("flip", flip), ("color_jitter", color_jitter), ("blur", blur)):
        if not 0 <= value <= 1:
            raise SegkdError(f"{name} must lie in 0 to 1, got {value}")
    if flip:
        steps.append(A.HorizontalFlip(p=flip))
    if color_jitter:
        factor = (1 - color_jitter, 1 + color_jitter)
        steps.append(A.ColorJitter(factor, factor, factor, (-color_jitter / 5, color_jitter / 5), p=1.0))
    if blur:
        steps.append(A.GaussianBlur(sigma_limit=(0.0, 1.0), p=blur))
    return steps


def resize_step(size: Sequence[int]) -> A.Resize:
    """Return the step that brings an image to ``size`` (height, width).

    Raises:
        SegkdError: a size that is not two positive numbers.
    """
    height, width = _size("resize", size)
    # NEAREST_EXACT keeps pixel centres where LINEAR and AREA put them; plain NEAREST is half a pixel off.
    return A.Resize(height, width, cv2.INTER_LINEAR, cv2.INTER_NEAREST_EXACT, area_for_downscale="image", p=1.0)


def _size(name: str, size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise SegkdError(f"{name} must be [height, width] in pixels, got {list(size)}")
    return int(size[0]), int(size[1])
