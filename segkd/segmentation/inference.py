"""Logits and classes at label resolution, from the whole image at once or from a sliding window."""

from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.adapter import read_logits
from segkd.errors import SegkdError, nearest
from segkd.losses._common import resize
from segkd.network import Preprocess

Size = tuple[int, int]

BAND = 32  # rows of logits that are handed on at once
STRIP = 2**18
"""Pixels that are worked on at once, so that logits of a large image are never all in memory: 20 MB of 19 classes."""


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
    return resize(next(_bands(model, images, mode, window, stride, all_at_once=True)), size)


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
    """Return each pixel's class, of each image uint8 (H, W), from several views of the same images.

    The class is that of the largest logit; of several views, that of the largest mean of their softmax probabilities at
    the result's size. Sliding, no more than the logits of a few rows of windows of each view are in memory.

    Args:
        model: as for `predict_logits`; so are mode, window and stride, in pixels of each view.
        views: the B images in one or more resolutions, each (B, 3, h, w) as the model takes it.
        sizes: of each image the height and width of its result.
        flip: whether each view is also read mirrored, left to right.
    """
    outputs = [
        Rows(images.shape[2] if mode == "sliding" else None, _bands(model, images, mode, window, stride, mirror))
        for images in views
        for mirror in ((False, True) if flip else (False,))
    ]
    masks: list[list[Tensor]] = [[] for _ in sizes]
    for parts in strips(sizes):
        for index, (size, part) in enumerate(zip(sizes, parts, strict=True)):
            scores = outputs[0].resized(index, size, *part)
            if len(outputs) > 1:  # the sum is largest where the mean is
                scores = scores.softmax(1)
                for rows in outputs[1:]:
                    scores += rows.resized(index, size, *part).softmax(1)
            masks[index].append(scores[0].argmax(0).to(torch.uint8))
    return [torch.cat(of_image) for of_image in masks]


def _whole(model: nn.Module, images: Tensor, mirror: bool = False) -> Tensor:
    """Logits of images of any size; of the model's own size, or the images' if they had to be padded."""
    if mirror:
        return _whole(model, images.flip(-1)).flip(-1)
    height, width = images.shape[-2:]
    larger = padded(images, size_multiple(model))
    if larger is images:
        return read_logits(model(images))
    return resize(read_logits(model(larger)), (larger.shape[-2], larger.shape[-1]))[..., :height, :width]


def padded(images: Tensor, multiple: int) -> Tensor:
    """Return images (B, C, H, W) with height and width that are multiples, padded at the bottom and at the right.

    Repeating the border looks more like an image than a black bar does.
    """
    down, right = (-size % multiple for size in images.shape[-2:])
    if not down and not right:
        return images
    floating = images if images.is_floating_point() else images.float()
    return F.pad(floating, (0, right, 0, down), mode="replicate").to(images.dtype)


def _bands(
    model: nn.Module,
    images: Tensor,
    mode: str,
    window: int | Size | None,
    stride: int | Size | None,
    mirror: bool = False,
    all_at_once: bool = False,
) -> Iterator[Tensor]:
    """Yield logits (B, C, n, w) from top to bottom, at the size at which they arise.

    Sliding, as soon as no further window reaches them, unless all are wanted at once; what is yielded holds until the
    next is asked for. Those of mirrored images are mirrored back.
    """
    if mode not in ("whole", "sliding"):
        raise SegkdError(f"no inference mode {mode!r}: {nearest(mode, ('whole', 'sliding'))}")
    if mode == "whole":
        yield _whole(model, images, mirror)
        return
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
    # So that every pixel is covered and none hangs over: the last window is moved back.
    tops = [*range(0, height - window_h, step_h), height - window_h]
    lefts = [*range(0, width - window_w, step_w), width - window_w]
    if mirror:
        lefts = [width - window_w - left for left in lefts]
    down, across = _counts(height, window_h, tops), _counts(width, window_w, lefts)
    total = torch.zeros(())  # of one row of windows, or of all
    for top, following in zip(tops, [*tops[1:], height], strict=True):
        base = top if all_at_once else 0
        for left in lefts:
            logits = _whole(model, images[..., top : top + window_h, left : left + window_w], mirror)
            logits = resize(logits, (window_h, window_w))
            if not total.dim():  # float32 also when the model runs in half precision: sums of many windows
                rows = height if all_at_once else window_h
                total = logits.new_zeros((*logits.shape[:2], rows, width), dtype=torch.float32)
            total[..., base : base + window_h, left : left + window_w] += logits
        step = following - top
        total[:, :, base : base + step] /= (down[top:following, None] * across).to(total.device)
        if not all_at_once:
            for start in range(0, step, BAND):
                yield total[:, :, start : min(start + BAND, step)]
            # The windows of the next row begin where these rows end.
            total[:, :, : window_h - step] = total[:, :, step:].clone()
            total[:, :, window_h - step :] = 0
    if all_at_once:
        yield total


def _counts(length: int, window: int, starts: list[int]) -> Tensor:
    """How many windows cover each row, or column."""
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def _pair(value: int | Size) -> Size:
    height, width = (value, value) if isinstance(value, int | Integral) else value
    return int(height), int(width)


def size_multiple(model: nn.Module) -> int:
    """Return what height and width must be multiples of: the encoder's output stride, or 1 for a model of any size."""
    if isinstance(known := getattr(model, "preprocess", None), Preprocess):
        return known.multiple
    while not hasattr(model, "encoder") and isinstance(getattr(model, "model", None), nn.Module):
        model = model.model  # type: ignore[assignment]  # within a WithAuxiliary or Student
    if not getattr(model, "requires_divisible_input_shape", False):
        return 1
    return int(model.encoder.output_stride)  # type: ignore[union-attr, arg-type]


class Rows:
    """Logits (B, C, h, w) that are made as they are read, and forgotten once they are read of all B.

    They come in parts (B, C, n, w), from top to bottom; what one holds may change when the next is asked for. Without a
    height the first is the only part.
    """

    def __init__(self, height: int | None, bands: Iterator[Tensor]) -> None:
        first = next(bands)
        self.height, self._bands = height or first.shape[2], bands
        self._held = first if first.shape[2] == self.height else first.clone()
        self._first = 0  # the row that is the first of those held
        self._needed = [0] * len(self._held)  # of each image, the first row that may be read again

    def resized(self, index: int, size: Size, top: int, bottom: int) -> Tensor:
        """Return rows of one image's logits resized to H x W: (1, C, bottom - top, W), at least float32.

        Bilinear, align_corners=False: on the CPU the same bits as ``interpolate`` gives for all. The first row, top, is
        not above that of the call before for this image.
        """
        above, below, weight = _neighbours(self.height, size[0], top, bottom)
        start, end = int(above[0]), int(below[-1]) + 1
        rows = self._read(index, start, end)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        if size[1] != rows.shape[3]:
            rows = F.interpolate(rows, (rows.shape[2], size[1]), mode="bilinear", align_corners=False)
        if size[0] == self.height:
            return rows
        above, below, weight = (x.to(rows.device) for x in (above - start, below - start, weight.to(rows.dtype)))
        return torch.addcmul(rows[:, :, below] * weight, rows[:, :, above], 1 - weight)

    def _read(self, index: int, start: int, end: int) -> Tensor:
        self._needed[index] = start
        passed = min(self._needed) - self._first
        self._held, self._first = self._held[:, :, passed:], self._first + passed
        while self._first + self._held.shape[2] < end:
            self._held = torch.cat([self._held, next(self._bands)], 2)
        return self._held[index : index + 1, :, start - self._first : end - self._first]


def strips(sizes: Sequence[Size]) -> Iterator[list[tuple[int, int]]]:
    """Divide images from top to bottom into as many strips each: yield of each image the first row and that after."""
    count = min(max(-(-height * width // STRIP) for height, width in sizes), *(height for height, _ in sizes))
    for number in range(count):
        yield [(height * number // count, height * (number + 1) // count) for height, _ in sizes]


def _neighbours(length: int, size: int, top: int, bottom: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return between which two of ``length`` rows each of rows ``top`` to ``bottom`` of ``size`` lies.

    The upper and the lower one, (bottom - top,), and the weight of the lower, (bottom - top, 1).
    """
    if size == length:
        same = torch.arange(top, bottom)
        return same, same, torch.zeros(bottom - top, 1)
    scale = float(torch.tensor(length, dtype=torch.float32) / size)
    place = ((torch.arange(top, bottom, dtype=torch.float64) + 0.5) * scale - 0.5).clamp(min=0).float()
    above = place.long().clamp(max=length - 1)
    return above, (above + 1).clamp(max=length - 1), (place - above)[:, None]
