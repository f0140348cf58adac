"""Which classes occur in the masks of a split, how often, and what may be the cause where one does not."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from segkd.data.samples import Samples, classes_have, read_all, spread

if TYPE_CHECKING:
    from segkd.data.masks import MaskSpec

#: How many masks training looks at before it starts; the second where a class is not in the first ones.
_LOOKS = (32, 256)


def occurring(samples: Samples, indices: Sequence[int]) -> tuple[np.ndarray, int]:
    """Count the pixels of each class id, int64 (256,), in masks spread over the samples, few if they hold every class.

    Returns:
        The counts, and how many masks they are of.

    Raises:
        SegkdError: one of these masks cannot be read.
    """
    counts = np.zeros(256, dtype=np.int64)
    looked: set[int] = set()
    for limit in _LOOKS:
        fresh = [index for index in spread(list(indices), limit) if index not in looked]
        counts += pixels(samples, fresh)
        looked |= set(fresh)
        if counts[: samples.spec.num_classes].all():
            break
    return counts, len(looked)


def pixels(samples: Samples, indices: Sequence[int]) -> np.ndarray:
    """Return the pixels of each class id, int64 (256,), in the masks at ``indices``."""
    counted = read_all(lambda index: samples.count(samples.label(index)), indices)
    return sum(counted, np.zeros(256, dtype=np.int64))


def one_alone(counts: np.ndarray, spec: "MaskSpec") -> bool:
    """Whether one class is all that occurs: whatever a model says of such masks is right, mIoU is 100."""
    return int(np.count_nonzero(counts[: spec.num_classes])) == 1


def missing(counts: np.ndarray, spec: "MaskSpec", masks: str) -> str:
    """Say which classes do not occur, and what may be the cause; nothing where all do.

    Args:
        counts: pixels of each class id, (256,).
        spec: the data set.
        masks: which ones were looked at, such as ``"any of 3 masks"``.
    """
    absent = np.flatnonzero(counts[: spec.num_classes] == 0).tolist()
    if not absent:
        return ""
    text = f"{classes_have([spec.class_names[number] for number in absent])} no pixel in {masks}"
    present = [name for number, name in enumerate(spec.class_names) if number not in absent]
    if len(present) < 2:
        text += ": every pixel is " + (f"{present[0]!r} or ignored" if present else "ignored")
    return text + spec.cause(counts, absent)
