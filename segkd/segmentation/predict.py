"""Class maps of images of any size, as a person has them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segkd.common.reading import rgb_pixels
from segkd.data.transforms import eval_transform
from segkd.errors import SegkdError
from segkd.network import Network
from segkd.segmentation.inference import Size, predict_classes, predict_logits

AT_ONCE = 2**24  # pixels that go through the model together, unless they are of one image


def predict(
    network: Network,
    images: Sequence[np.ndarray | Image.Image],
    *,
    mode: str = "whole",
    window: int | Size | None = None,
    stride: int | Size | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
) -> list[np.ndarray]:
    """Return the class of each pixel, of each image uint8 (H, W); images of one size go through the model together.

    Args:
        network: in eval mode.
        images: RGB, PIL images (read upright) or uint8 (H, W, 3), each of any size.
        mode: ``whole`` image or ``sliding`` window.
        window: sliding: height and width, or one number for both, in pixels of the image that the model sees;
            ``info["window"]`` unless given.
        stride: sliding: steps down and across, or one number for both; two thirds of the window unless given.
        flip: whether the mirrored image is read too.
        scales: the image is read at its usual size times each of these. Of several readings, mirrored ones among
            them, the mean of the softmax probabilities at the image's own size decides.

    Raises:
        SegkdError: an array of another shape or type, a scale that is no number above 0, or what `predict_logits`
            says of mode, window and stride.
    """
    if not scales or not all(0 < scale < math.inf for scale in scales):
        raise SegkdError(f"scales must be one or more numbers above 0, got {list(scales)}")
    window = network.recorded.get("window") if window is None else window
    pixels = [rgb_pixels(image) for image in images]
    sizes = [(image.shape[0], image.shape[1]) for image in pixels]
    groups: dict[Size, list[int]] = {}
    for index, own in enumerate(sizes):
        groups.setdefault(network.preprocess.size or own, []).append(index)
    masks: dict[int, np.ndarray] = {}
    of_pixels = _RawPixels(network)
    for (height, width), members in groups.items():
        scaled = [(max(round(height * scale), 1), max(round(width * scale), 1)) for scale in scales]
        at_once = max(AT_ONCE // (height * width), 1)
        for start in range(0, len(members), at_once):
            some = members[start : start + at_once]
            views = (of_pixels.view([pixels[i] for i in some], size) for size in scaled)
            found = predict_classes(of_pixels, views, [sizes[i] for i in some], mode, window, stride, flip)
            masks |= {i: mask.cpu().numpy() for i, mask in zip(some, found, strict=True)}
    return [masks[i] for i in range(len(pixels))]


def predict_maps(network: Network, images: Sequence[np.ndarray | Image.Image]) -> list[np.ndarray]:
    """Return of each image float32 (C, H, W): what a dense model of any task returns, at the image's size."""
    of_pixels, found = _RawPixels(network), []
    for pixels in map(rgb_pixels, images):
        own = (pixels.shape[0], pixels.shape[1])
        view = of_pixels.view([pixels], network.preprocess.size or own)
        found.append(predict_logits(of_pixels, view, own)[0].float().cpu().numpy())
    return found


class _RawPixels(nn.Module):
    """A network on uint8 pixels: normalised window by window, they are never all in memory as float."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.module, self.preprocess = network.module, network.preprocess
        like = next(network.module.parameters(), torch.zeros(()))
        self.device, self.dtype = like.device, like.dtype

    def view(self, images: list[np.ndarray], size: Size) -> Tensor:
        """Return images at the size that the model sees, uint8 (B, 3, *size)."""
        # The validation's own transform, so that what was measured is what is used.
        resize = eval_transform(size)
        batch = torch.from_numpy(np.stack([resize(image).image for image in images]))
        return batch.to(self.device).permute(0, 3, 1, 2)

    def forward(self, pixels: Tensor) -> Any:
        """Normalise pixels (B, 3, H, W) and run the model in its own precision."""
        return self.module(self.preprocess(pixels).to(self.dtype))
