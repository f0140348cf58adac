"""Augmentation of images, boxes and masks together, drawn from a seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# albumentations comes from there: imported first, it would ask a server for its newest version.
from segkd.data.transforms import A, apply, resize_step, train_steps

MIN_SIDE = 1.0
"""Width and height in pixels below which training drops a box: no detector here has cells or bins that fine."""

MIN_VISIBILITY = 0.1
"""Share of a box that must be left after a crop for training to keep it: less shows too little of the object."""


class Transformed(NamedTuple):
    """What a transform returns.

    Attributes:
        image: uint8 (h, w, 3).
        boxes: float32 (n, 4), xmin, ymin, xmax, ymax in pixels of ``image``, inside it.
        kept: int64 (n,), which of the boxes given these are.
        masks: uint8 (n, h, w), or None if none were given.
    """

    image: np.ndarray
    boxes: np.ndarray
    kept: np.ndarray
    masks: np.ndarray | None


class Transform:
    """An albumentations pipeline as a function of image, boxes, masks and seed.

    Args:
        steps: what is applied.
        training: whether boxes smaller than `MIN_SIDE` or less visible than `MIN_VISIBILITY` are dropped, and whether
            a data set leaves out crowds and difficult objects. In evaluation every box stays.
    """

    def __init__(self, steps: list[A.BasicTransform], training: bool):
        self.training = training
        smallest = {"min_visibility": MIN_VISIBILITY, "min_width": MIN_SIDE, "min_height": MIN_SIDE} if training else {}
        # filter_invalid_bboxes: a box so thin that it has no area in float32 would otherwise be an error.
        boxes = A.BboxParams("pascal_voc", ["kept"], clip=True, filter_invalid_bboxes=True, **smallest)
        # NoOp: without a step that takes boxes, Compose warns that there is none.
        self.pipeline = A.Compose([*steps, A.NoOp()], bbox_params=boxes)

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, masks: np.ndarray | None = None, seed: int = 0
    ) -> Transformed:
        """Transform one image and its objects.

        Args:
            image: uint8 (H, W, 3).
            boxes: float32 (N, 4), xmin, ymin, xmax, ymax in pixels, half-open, inside the image, with an area.
            masks: uint8 (N, H, W), if there are any.
            seed: what every random draw of this call derives from.
        """
        stacked = {} if masks is None or not len(masks) else {"masks": masks}
        out = apply(self.pipeline, seed, image=image, bboxes=boxes, kept=np.arange(len(boxes)), **stacked)
        kept = np.array(out["kept"], dtype=np.int64)
        moved = np.array(out["bboxes"], dtype=np.float32).reshape(-1, 4)
        if stacked:
            masks = np.asarray(out["masks"])[kept]
        elif masks is not None:
            masks = np.zeros((0, *out["image"].shape[:2]), dtype=np.uint8)
        return Transformed(out["image"], moved, kept, masks)


def train_transform(
    *,
    resize: Sequence[int] | None = None,
    scale: Sequence[float] = (1.0, 1.0),
    crop: Sequence[int] | None = None,
    flip: float = 0.5,
    color_jitter: float = 0.0,
    blur: float = 0.0,
) -> Transform:
    """Build the training transform: resize, random scale, pad and random crop, flip, colour jitter, blur, in order.

    Boxes are moved along and clipped to the crop; `MIN_SIDE` and `MIN_VISIBILITY` say which are dropped. An image whose
    boxes are all dropped is background.

    Args:
        resize: height and width that every image is brought to first; None leaves the size to the detector, which
            keeps the aspect ratio.
        scale: smallest and largest factor of the random scale; ``(1, 1)`` turns it off.
        crop: height and width of what comes out, in pixels; None leaves out the crop.
        flip: probability of a horizontal flip, 0 to 1.
        color_jitter: largest relative change of brightness, contrast and saturation, 0 to 1; hue moves by up to a
            fifth of it. 0 turns it off.
        blur: probability of a Gaussian blur, whose sigma is drawn from 0 to 1 pixels.

    Raises:
        SegkdError: a value out of range.
    """
    return Transform(train_steps(crop, resize, scale, flip, color_jitter, blur=blur), training=True)


def eval_transform(resize: Sequence[int] | None = None) -> Transform:
    """Build the validation transform: image, boxes and masks are resized to ``(height, width)``, or left as they are.

    Raises:
        SegkdError: a size that is not two positive numbers.
    """
    return Transform([] if resize is None else [resize_step(resize)], training=False)
