"""Logits and classes at label resolution, from the whole image at once or from a sliding window."""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.adapter import read_logits
from segkd.errors import SegkdError, nearest

Size = tuple[int, int]


@torch.no_grad()
def predict_logits(
    model: nn.Module,
    images: Tensor,
    size: Size,
    mode: str = "whole",
    window: int | Size | None = None,
    stride: int | Size | None = None,
) -> Tensor:
    """Run a model, in the mode it is in, and bring its logits to `size` (bilinear, align_corners=False).

    Args:
        model: maps images to logits (B, C, h, w), in any of the forms that `segkd.adapter.read_logits` reads.
        images: normalised, (B, 3, H, W), H and W of any size: they are padded where the model asks for multiples.
        size: height and width of the result, usually the label's.
        mode: ``whole`` or ``sliding``.
        window: sliding: height and width of the window in pixels of `images`, or one number for both. Where an image
            is smaller, the window shrinks to it.
        stride: sliding: steps down and across, or one number for both; two thirds of the window unless given.

    Returns:
        Logits (B, C, *size). Where windows overlap, the mean of their logits.

    Raises:
        SegkdError: an unknown mode, sliding without a window, a window or stride below 1, a stride beyond the window.
    """
    return _resize(_logits(model, images, mode, window, stride), size)


@torch.no_grad()
def predict_classes(
    model: nn.Module,
    views: Iterable[Tensor],
    sizes: Sequence[Size],
    mode: str = "whole",
    window: int | Size | None = None,
    stride: int | Size | None = None,
    flip: bool = False,
) -> list[Tensor]:
    """Run a model on several views of the same images and return each pixel's class.

    Args:
        model: as for `predict_logits`.
        views: the B images in one or more resolutions, each normalised (B, 3, h, w).
        sizes: of each image the height and width of its result.
        mode: ``whole`` or ``sliding``.
        window: sliding: as for `predict_logits`, in pixels of each view.
        stride: sliding: likewise.
        flip: whether each view is also read mirrored, left to right.

    Returns:
        Of each image uint8 (H, W). The class is that of the largest logit; of several views, that of the largest mean
        of their softmax probabilities at the result's size.

    Raises:
        SegkdError: as `predict_logits`.
    """
    outputs = []
    for images in views:
        outputs.append(_logits(model, images, mode, window, stride))
        if flip:
            outputs.append(_logits(model, images.flip(-1), mode, window, stride).flip(-1))
    # Image by image: logits at label size are what needs the most memory.
    return [_classes([logits[i : i + 1] for logits in outputs], size) for i, size in enumerate(sizes)]


def _logits(
    model: nn.Module, images: Tensor, mode: str, window: int | Size | None, stride: int | Size | None
) -> Tensor:
    """Logits (B, C, h, w) at the size at which they arise."""
    if mode == "whole":
        return _whole(model, images)
    if mode == "sliding":
        return _sliding(model, images, window, stride)
    raise SegkdError(f"no inference mode {mode!r}: {nearest(mode, ('whole', 'sliding'))}")


def _classes(views: list[Tensor], size: Size) -> Tensor:
    if len(views) == 1:
        scores = _resize(views[0], size)
    else:  # the sum is largest where the mean is
        probabilities = (_resize(logits, size).float().softmax(1) for logits in views)
        scores = sum(probabilities, start=torch.zeros((), device=views[0].device))
    return scores[0].argmax(0).to(torch.uint8)


def _whole(model: nn.Module, images: Tensor) -> Tensor:
    """Logits of images of any size; of the model's own size, or the images' if they had to be padded."""
    height, width = images.shape[-2:]
    multiple = size_multiple(model)
    down, right = -height % multiple, -width % multiple
    if not down and not right:
        return read_logits(model(images))
    # Repeating the border looks more like an image than a black bar does, and the logits there are cut off.
    padded = F.pad(images, (0, right, 0, down), mode="replicate")
    logits = _resize(read_logits(model(padded)), (height + down, width + right))
    return logits[..., :height, :width]


def _sliding(model: nn.Module, images: Tensor, window: int | Size | None, stride: int | Size | None) -> Tensor:
    if window is None:
        raise SegkdError("sliding inference needs a window: its height and width in pixels")
    height, width = images.shape[-2:]
    asked_h, asked_w = _pair(window)
    # Two thirds of a window of one pixel would be a stride of 0.
    step_h, step_w = (max(asked_h * 2 // 3, 1), max(asked_w * 2 // 3, 1)) if stride is None else _pair(stride)
    if not (1 <= step_h <= asked_h and 1 <= step_w <= asked_w):
        raise SegkdError(
            f"sliding inference needs 1 <= stride <= window: window {asked_h}x{asked_w}, stride {step_h}x{step_w}"
        )
    window_h, window_w = min(asked_h, height), min(asked_w, width)
    total: Tensor | None = None
    count = torch.zeros(height, width, device=images.device)
    for top in _starts(height, window_h, step_h):
        for left in _starts(width, window_w, step_w):
            region = (..., slice(top, top + window_h), slice(left, left + window_w))
            logits = _resize(_whole(model, images[region]), (window_h, window_w))
            if total is None:  # float32 also when the model runs in half precision: sums of many windows
                total = logits.new_zeros((*logits.shape[:2], height, width), dtype=torch.float32)
            total[region] += logits
            count[region] += 1
    assert total is not None
    return total / count


def _starts(length: int, window: int, step: int) -> Iterator[int]:
    """Where windows begin so that every pixel is covered and none hangs over: the last is moved back."""
    yield from range(0, length - window, step)
    yield length - window


def _pair(value: int | Size) -> Size:
    height, width = (value, value) if isinstance(value, int) else value
    return int(height), int(width)


def _resize(logits: Tensor, size: Size) -> Tensor:
    if logits.shape[-2:] == tuple(size):
        return logits
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def size_multiple(model: nn.Module) -> int:
    """Return what height and width must be multiples of: the encoder's output stride, or 1 for a model of any size."""
    while not hasattr(model, "encoder") and isinstance(getattr(model, "model", None), nn.Module):
        model = model.model  # type: ignore[assignment]  # within a WithAuxiliary or Student
    if not getattr(model, "requires_divisible_input_shape", False):
        return 1
    return int(model.encoder.output_stride)  # type: ignore[union-attr, arg-type]
