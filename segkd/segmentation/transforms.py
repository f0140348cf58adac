"""Augmentation of images and their masks, drawn from a seed; the steps are those of :mod:`segkd.data.transforms`."""

from collections.abc import Sequence

import numpy as np

# albumentations comes from there: imported first, it would ask a server for its newest version.
from segkd.data.transforms import A, apply, resize_step, train_steps


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
        if not self.with_mask:
            return apply(self.pipeline, seed, image=image)["image"], mask
        out = apply(self.pipeline, seed, image=image, mask=mask)
        return out["image"], out["mask"]


def train_transform(
    crop: Sequence[int],
    *,
    resize: Sequence[int] | None = None,
    scale: Sequence[float] = (1.0, 1.0),
    flip: float = 0.5,
    color_jitter: float = 0.0,
    ignore_index: int = 255,
    blur: float = 0.0,
) -> Transform:
    """Build the training transform: resize, random scale, pad and random crop, flip, colour jitter, blur, in order.

    Args:
        crop: height and width of what comes out, in pixels.
        resize: height and width that every pair is brought to first; None leaves the size as it is.
        scale: smallest and largest factor of the random scale; ``(1, 1)`` turns it off.
        flip: probability of a horizontal flip, 0 to 1.
        color_jitter: largest relative change of brightness, contrast and saturation, 0 to 1; hue moves by up to a
            fifth of it. 0 turns it off.
        ignore_index: what padding is labelled as; padded pixels get the mean colour.
        blur: probability of a Gaussian blur, whose sigma is drawn from 0 to 1 pixels.

    Raises:
        SegkdError: a value out of range.
    """
    steps = train_steps(crop, resize, scale, flip, color_jitter, ignore_index, blur)
    return Transform(A.Compose(steps), with_mask=True)


def eval_transform(resize: Sequence[int] | None = None) -> Transform:
    """Build the validation transform: the image is resized to ``(height, width)``, the mask keeps its own resolution.

    Raises:
        SegkdError: a size that is not two positive numbers.
    """
    return Transform(A.Compose([] if resize is None else [resize_step(resize)]), with_mask=False)
