"""Which classes occur in the masks of a split, and what may be the cause where one does not."""

from collections.abc import Sequence
from functools import partial

import numpy as np

from segkd.data.check import classes_have, read_all
from segkd.data.loading import spread
from segkd.data.splits import Pair
from segkd.segmentation.datasets import DatasetSpec
from segkd.segmentation.reading import read_mask

#: How many masks training looks at before it starts; the second where a class is not in the first ones.
_LOOKS = (32, 256)


def look(pairs: Sequence[Pair], spec: DatasetSpec) -> tuple[np.ndarray, int]:
    """Count the pixels of each class id, int64 (256,), in masks spread over the pairs, few if they hold every class.

    Returns:
        The counts, and how many masks they are of.

    Raises:
        SegkdError: one of these masks cannot be read, see `read_mask`.
    """
    counts = np.zeros(256, dtype=np.int64)
    looked: set[Pair] = set()
    for limit in _LOOKS:
        fresh = [pair for pair in spread(list(pairs), limit) if pair not in looked]
        counts += count_pixels(fresh, spec)
        looked |= set(fresh)
        if counts[: spec.num_classes].all():
            break
    return counts, len(looked)


def count_pixels(pairs: Sequence[Pair], spec: DatasetSpec) -> np.ndarray:
    """Count the pixels of each class id, int64 (256,), in the masks of these pairs; raises as `look` does."""
    counts = np.zeros(256, dtype=np.int64)
    for counted in read_all(partial(_count, spec=spec), pairs):
        counts += counted
    return counts


def one_alone(counts: np.ndarray, spec: DatasetSpec) -> bool:
    """Whether one class is all that occurs: whatever a model says of such masks is right, mIoU is 100."""
    return int(np.count_nonzero(counts[: spec.num_classes])) == 1


def missing(counts: np.ndarray, spec: DatasetSpec, masks: str) -> str:
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
    return text + _cause(counts, spec, absent)


def _cause(counts: np.ndarray, spec: DatasetSpec, absent: list[int]) -> str:
    if spec.label_map is not None:
        unmapped = [number for number in absent if number not in spec.label_map.values()]
        return f"; label_map sends no id to {spec.class_names[unmapped[0]]!r}" if unmapped else ""
    ignored = counts[spec.ignore_index]
    if not ignored or spec.masks == "colors" or spec.ignore_colors:
        return ""
    text = f"; {100 * ignored / counts.sum():.0f} % are {spec.ignore_index}, which is ignored"
    if len(absent) > 1:
        return f"{text}: if that is one of them, say so in label_map"
    kept = [f"{number}: {number}" for number in range(spec.num_classes) if number not in absent]
    mapped = ", ".join([*kept, f"{spec.ignore_index}: {absent[0]}"])
    return f"{text}: if that is {spec.class_names[absent[0]]!r}, say label_map: {{{mapped}}}"


def _count(pair: Pair, spec: DatasetSpec) -> np.ndarray:
    return np.bincount(read_mask(pair.mask, spec).ravel(), minlength=256)
