"""What a detector is trained on, and the check that a batch of it is sound."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from segkd.errors import SegkdError

Targets = list[dict[str, Tensor]]
"""Per image ``"boxes"``, float (M, 4), xyxy in pixels, and ``"labels"``, int64 (M,) in 1..K; M may be 0."""


def check_batch(images: Sequence[Any], targets: Sequence[Any] | None, num_classes: int) -> None:
    """Raise `SegkdError`, which names the image, unless a detector can be trained on these images and targets.

    A box without area is refused, and one wholly outside its image: with an IoU of 0 with every anchor, the matching of
    RetinaNet and Faster R-CNN, which gives each box its best anchors, would give it nearly all of them.
    """
    for index, image in enumerate(images):
        is_image = isinstance(image, Tensor) and image.is_floating_point() and image.dim() == 3 and len(image) == 3
        if not is_image or image.numel() == 0:
            raise SegkdError(f"images[{index}] must be a float tensor (3, H, W) in [0, 1], got {_shown(image)}")
    if targets is None or len(images) == 0 or len(targets) != len(images):
        given = "none" if targets is None else len(targets)
        raise SegkdError(f"a detector trains on one target per image, got {given} for {len(images)} images")
    for index, target in enumerate(targets):
        if not isinstance(target, Mapping):
            raise SegkdError(f"targets must be a list of dicts with 'boxes' and 'labels', got a {_shown(target)} in it")
        boxes, labels = target.get("boxes"), target.get("labels")
        if not isinstance(boxes, Tensor) or boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
            raise SegkdError(f"targets[{index}]['boxes'] must be float (M, 4), got {_shown(boxes)}")
        if not isinstance(labels, Tensor) or labels.shape != boxes.shape[:1] or labels.dtype != torch.int64:
            raise SegkdError(f"targets[{index}]['labels'] must be int64 ({len(boxes)},), got {_shown(labels)}")
    # At once for all images: each look at a value makes the GPU wait.
    sound = [_sound(image, target, num_classes) for image, target in zip(images, targets, strict=True)]
    if torch.cat(sound).all():
        return
    index = next(index for index, of_image in enumerate(sound) if not of_image.all())
    row = int(sound[index].long().argmin())
    box, label = targets[index]["boxes"][row].tolist(), int(targets[index]["labels"][row])
    height, width = images[index].shape[1:]
    raise SegkdError(
        f"targets[{index}]: box {row} is {box}, label {label}: a box has x1 < x2 and y1 < y2 and a part inside its "
        f"image, {width}x{height} (width x height), and labels lie in 1..{num_classes}"
    )


def _sound(image: Tensor, target: Mapping[str, Tensor], num_classes: int) -> Tensor:
    """Return for each box (M,) whether it is finite, has an area and part of it in the image, and a class's label."""
    boxes, labels = target["boxes"], target["labels"]
    least, most = boxes[:, :2], boxes[:, 2:]
    is_finite, has_area = boxes.isfinite().all(1), (most > least).all(1)
    height, width = image.shape[1:]
    is_seen = (most > 0).all(1) & (least[:, 0] < width) & (least[:, 1] < height)
    return is_finite & has_area & is_seen & (labels >= 1) & (labels <= num_classes)


def _shown(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
