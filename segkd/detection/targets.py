"""What a detector is trained on, and the check that a batch of it is sound."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from segkd.errors import SegkdError

Targets = list[dict[str, Tensor]]
"""Per image ``"boxes"``, float (M, 4), xyxy in pixels, and ``"labels"``, int64 (M,) in 1..K; M may be 0."""


def check_batch(images: Sequence[Any], targets: Sequence[Any], num_classes: int) -> None:
    """Raise unless a detector can be trained on these images and targets.

    A box without area is refused: by its IoU of 0 RetinaNet's matching would give it every other anchor as well.

    Args:
        images: float (3, H, W) in [0, 1] each; sizes may differ.
        targets: one for each image, see `Targets`; other keys are not looked at.
        num_classes: K.

    Raises:
        SegkdError: naming the image and what is wrong with it.
    """
    for index, image in enumerate(images):
        if not isinstance(image, Tensor) or image.dim() != 3 or not image.is_floating_point():
            raise SegkdError(f"images[{index}] must be a float tensor (3, H, W) in [0, 1], got {_shown(image)}")
    if not images or len(targets) != len(images):
        raise SegkdError(f"a detector trains on one target per image, got {len(targets)} for {len(images)} images")
    for index, target in enumerate(targets):
        boxes, labels = target.get("boxes"), target.get("labels")
        if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise SegkdError(f"targets[{index}]['boxes'] must be float (M, 4), got {_shown(boxes)}")
        if not isinstance(labels, Tensor) or labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
            raise SegkdError(f"targets[{index}]['labels'] must be int64 ({len(boxes)},), got {_shown(labels)}")
    # At once for all images: each look at a value makes the GPU wait.
    if torch.cat([_sound(target, num_classes) for target in targets]).all():
        return
    for index, target in enumerate(targets):
        sound = _sound(target, num_classes)
        if not sound.all():
            row = int(sound.long().argmin())
            raise SegkdError(
                f"targets[{index}]: box {row} is {target['boxes'][row].tolist()}, label {int(target['labels'][row])}: "
                f"a box has x1 < x2 and y1 < y2, and labels lie in 1..{num_classes}"
            )


def _sound(target: dict[str, Tensor], num_classes: int) -> Tensor:
    """Return for each box (M,) whether it is finite and has an area, and its label is a class."""
    boxes, labels = target["boxes"], target["labels"]
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1) & boxes.isfinite().all(1)
    return has_area & (labels >= 1) & (labels <= num_classes)


def _shown(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
