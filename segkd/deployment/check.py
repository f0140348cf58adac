"""How far the outputs of an exported file are from those of the student that it was made of."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

#: Outputs of the student, and the same of the file.
Pairs = Iterable[tuple[list[Tensor], list[Tensor]]]

# Pixels that a box's side may be off.
_BOX_TOLERANCE = 0.01


@dataclass
class Comparison:
    """How far a file's outputs are from the student's."""

    value: str  # what the difference is of, ``logit`` or ``score``
    unit: str  # what is counted, ``pixels`` or ``boxes``
    required: float  # the share of them that must be equal
    images: int = 0  # how many were compared
    difference: float = 0.0  # the largest
    largest: float = 0.0  # the value that is furthest from zero
    equal: int = 0
    total: int = 0

    def add(self, images: int, expected: Tensor, got: Tensor, equal: Tensor, total: int) -> None:
        """Count one more pair: values of both, which pixels or boxes are equal, of how many."""
        self.images += images
        self.difference = _larger(self.difference, expected - got)
        self.largest = _larger(self.largest, expected)
        self.equal += int(equal.sum())
        self.total += total

    @property
    def share(self) -> float:
        """The share of pixels or boxes that are equal; 1 where there are none."""
        return self.equal / self.total if self.total else 1.0

    @property
    def limit(self) -> float:
        """The difference that float32 explains: 1e-4 for values up to 10, in proportion beyond."""
        return 1e-4 * max(1.0, self.largest / 10)

    @property
    def passed(self) -> bool:
        """Whether the file gives what the student gives."""
        # The other way round NaN would pass.
        return self.difference < self.limit and self.share > self.required

    def __str__(self) -> str:
        """Return both measures for a person."""
        if not self.total:
            return f"nothing was compared, neither the student nor the file finds {self.unit}"
        share = f"{math.floor(self.share * 1e5) / 1e3:.3f} % of {self.total} {self.unit} equal"
        return f"largest {self.value} difference {self.difference:.1e} (limit {self.limit:.1e}), {share}"


def compare_logits(pairs: Pairs) -> Comparison:
    """Compare logits (B, C, H, W), and which class has the largest in a pixel."""
    result = Comparison("logit", "pixels", 0.999)
    for (expected,), (got,) in pairs:
        same = expected.argmax(1) == got.argmax(1)
        result.add(len(expected), expected, got, same, same.numel())
    return result


def compare_boxes(pairs: Pairs) -> Comparison:
    """Compare boxes (N, 4), labels (N,) and scores (N,), best first: the scores, and which boxes have their like.

    Boxes of one score may change places, and one at the threshold may be on either side of it: 99 % must be the same.
    """
    result = Comparison("score", "boxes", 0.99)
    for (boxes, labels, scores), (got_boxes, got_labels, got_scores) in pairs:
        count = min(len(boxes), len(got_boxes))
        close = ((boxes[:, None] - got_boxes).abs() < _BOX_TOLERANCE).all(-1)
        same = (close & (labels[:, None] == got_labels)).any(1)
        result.add(1, scores[:count], got_scores[:count], same, max(len(boxes), len(got_boxes)))
    return result


def _larger(known: float, values: Tensor) -> float:
    """Return the largest distance from zero, NaN if there is one."""
    return float(torch.cat([torch.tensor([known]), values.flatten().float().abs().cpu()]).max())
