"""Boxes in images of any size, as a person has them."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from segkd.common.reading import rgb_pixels
from segkd.detection.models import detect
from segkd.network import Network


@torch.no_grad()
def predict(network: Network, images: Sequence[np.ndarray | Image.Image]) -> list[dict[str, np.ndarray]]:
    """Find the objects in images; those of one size go through the model together.

    Args:
        network: in eval mode.
        images: RGB, PIL images (read upright) or uint8 (H, W, 3), each of any size.

    Returns:
        Of each image ``boxes``, float32 (N, 4), xyxy in the image's pixels; ``labels``, int64 (N,) in 1..K; ``scores``,
        float32 (N,) in [0, 1], best first.

    Raises:
        SegkdError: an array of another shape or type.
    """
    like = next(network.module.parameters())
    pixels = [rgb_pixels(image) for image in images]
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(pixels):
        groups.setdefault(image.shape, []).append(index)
    results: dict[int, dict[str, np.ndarray]] = {}
    # Of one size only: beside a larger image the smaller would be padded, which moves its boxes a little.
    for members in groups.values():
        tensors = [torch.tensor(pixels[i], device=like.device).permute(2, 0, 1) for i in members]
        found = detect(network, [tensor.to(like.dtype) / 255 for tensor in tensors])
        for i, each in zip(members, found, strict=True):
            boxes, labels, scores = (each[key].cpu() for key in ("boxes", "labels", "scores"))
            results[i] = {"boxes": boxes.float().numpy(), "labels": labels.numpy(), "scores": scores.float().numpy()}
    return [results[i] for i in range(len(pixels))]
