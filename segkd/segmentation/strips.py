"""Logits from top to bottom in strips, so that those of a large image are never all in memory."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]

STRIP = 2**18
"""Pixels that are worked on at once: with 19 classes 20 MB of logits."""


class Rows:
    """Logits (B, C, h, w) that are made as they are read, and forgotten once they are read of all B.

    Args:
        height: h; None: that of the first and only part.
        bands: parts (B, C, n, w) of them, from top to bottom; what one holds may change when the next is asked for.
    """

    def __init__(self, height: int | None, bands: Iterator[Tensor]) -> None:
        first = next(bands)
        self.height, self._bands = height or first.shape[2], bands
        self._held = first if first.shape[2] == self.height else first.clone()
        self._first = 0  # the row that is the first of those held
        self._needed = [0] * len(self._held)  # of each image, the first row that may be read again

    def resized(self, index: int, size: Size, top: int, bottom: int) -> Tensor:
        """Return rows of one image's logits at another size (bilinear, align_corners=False).

        Args:
            index: which image.
            size: height H and width W of all of it.
            top: the first row of H, not above that of the call before for this image.
            bottom: the row after the last.

        Returns:
            Logits (1, C, bottom - top, W), at least float32: on the CPU the same bits as ``interpolate`` gives for all.
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
