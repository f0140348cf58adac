"""Look at a data set before training on it: every file read and every problem named, and a sheet of samples to see."""

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console

from segkd.common.orientation import UPRIGHT
from segkd.common.pictures import comparison_grid, letterbox
from segkd.common.pixels import conversion_lines
from segkd.common.reading import read_photo
from segkd.data.check import DatasetReport, choose, read_all, sizes_text, turned_lines
from segkd.data.splits import Pair
from segkd.errors import SegkdError
from segkd.segmentation.datasets import DatasetSpec
from segkd.segmentation.occurrence import missing, one_alone
from segkd.segmentation.pictures import overlay
from segkd.segmentation.reading import align, read_mask, read_pair
from segkd.segmentation.transforms import Transform


@dataclass(frozen=True)
class SplitReport:
    """What one split holds.

    Attributes:
        split: its name.
        pairs: number of pairs found.
        sizes: (height, width) of the images -> how many have it.
        shares: class name -> share of all pixels in %.
        ignored: share of pixels that count for nothing, in %.
        problems: one line for each thing that is wrong, with its path.
        remarks: one line for each thing that a person should know.
        turned: number of images that an orientation tag has turned,
        along: and of masks that were turned with them.
        absent: the split is optional and there is nothing of it on disk.
    """

    split: str
    pairs: int
    sizes: dict[tuple[int, int], int]
    shares: dict[str, float]
    ignored: float
    problems: list[str]
    remarks: list[str] = field(default_factory=list)
    turned: int = 0
    along: int = 0
    absent: bool = False

    def lines(self) -> list[str]:
        """Return what the report says of the split."""
        shares = [*self.shares.items(), ("(ignored)", self.ignored)]
        return [
            f"  {self.split}: {self.pairs} pairs; {sizes_text(self.sizes)}",
            *(f"    {name:<20} {share:6.2f} %" for name, share in shares),
            *(f"    {remark}" for remark in self.remarks),
            *turned_lines(self.turned, f"the masks of {self.along}"),
        ]


def check_dataset(
    spec: DatasetSpec, root: str | os.PathLike[str] | None = None, console: Console | None = None
) -> DatasetReport:
    """Read every pair of every split and report sizes, class shares and all that is wrong; never stops at the first.

    Args:
        spec: the data set.
        root: where the data lie, if not where the spec says.
        console: where progress is shown if it is a terminal; None for nowhere.

    Raises:
        SegkdError: the root itself is missing.
    """
    reports = [_check_split(spec, split, root, console) for split in spec.splits]
    return DatasetReport(spec.name, spec.resolve_root(root), reports)


def contact_sheet(
    spec: DatasetSpec,
    split: str,
    transform: Transform,
    count: int = 4,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw samples in rows: image, label over image, and both after augmentation, with a legend of the classes.

    Args:
        spec: the data set.
        split: which split of it.
        transform: what is shown as augmentation.
        count: how many samples, drawn without repetition.
        seed: what the choice of samples and the augmentation derive from.
        root: where the data lie, if not where the spec says.

    Raises:
        SegkdError: a count below 1, or whatever keeps the samples from being read.
    """
    pairs = spec.pairs(split, root)
    paint = partial(overlay, colors=spec.colors, ignore_index=spec.ignore_index)
    rows = []
    for index in choose(len(pairs), count, seed):
        image, mask = read_pair(pairs[index], spec)
        after, mask_after = transform(image, mask, seed + index)
        if after.shape[:2] != mask_after.shape:  # validation resizes the image only; show both at the label's size
            after = np.asarray(Image.fromarray(after).resize((mask_after.shape[1], mask_after.shape[0])))
        pictures = (after, paint(after, mask_after))
        rows.append([image, paint(image, mask), *(letterbox(picture, image.shape) for picture in pictures)])
    headers = ("image", "label", "augmented image", "augmented label")
    return Image.fromarray(comparison_grid(rows, headers, list(zip(spec.class_names, spec.colors, strict=True))))


def _check_split(
    spec: DatasetSpec, split: str, root: str | os.PathLike[str] | None, console: Console | None
) -> SplitReport:
    pairs, problems, remarks = spec.scan(split, root)
    if spec.splits[split].optional and not spec.is_there(split, root):
        return SplitReport(split, 0, {}, {}, 0.0, [], absent=True)
    looks = list(read_all(partial(_check_pair, spec=spec), pairs, f"{spec.name} {split}", console))
    sizes = Counter(look.size for look in looks if look.size is not None)
    counts = sum((look.counts for look in looks), np.zeros(256, dtype=np.int64))
    problems += [problem for look in looks for problem in look.problems]
    absent = missing(counts, spec, f"any of {sum(bool(look.counts.any()) for look in looks)} masks")
    if absent and counts.any():  # else no mask could be read, which is said
        (problems if one_alone(counts, spec) else remarks).append(f"{spec.name} {split}: {absent}")
    percent = 100 * counts / max(counts.sum(), 1)
    shares = {name: float(percent[number]) for number, name in enumerate(spec.class_names)}
    ignored = float(percent[spec.ignore_index])
    remarks += conversion_lines((pair.image, look.converted) for pair, look in zip(pairs, looks, strict=True))
    turned, along = sum(look.turned for look in looks), sum(look.along for look in looks)
    return SplitReport(split, len(pairs), dict(sizes), shares, ignored, problems, remarks, turned, along)


class _Look(NamedTuple):
    """Of a pair: size of the image, pixels per class id (256,), what is wrong, which file turned, what is lost."""

    size: tuple[int, int] | None
    counts: np.ndarray
    problems: list[str]
    turned: bool
    along: bool
    converted: list[str]


def _check_pair(pair: Pair, spec: DatasetSpec) -> _Look:
    image = mask = None
    tag = UPRIGHT
    along = False
    problems = []
    converted: list[str] = []
    try:
        image, tag, converted = read_photo(pair.image, spec.max_pixels)
    except SegkdError as error:
        problems.append(str(error))
    try:
        mask = read_mask(pair.mask, spec)
    except SegkdError as error:
        problems.append(str(error))
    if image is not None and mask is not None:
        try:
            along = align(pair, image, tag, mask) is not mask
        except SegkdError as error:
            problems.append(str(error))
    size = None if image is None else (image.shape[0], image.shape[1])
    counts = np.zeros(256, dtype=np.int64) if mask is None else np.bincount(mask.ravel(), minlength=256)
    return _Look(size, counts, problems, tag != UPRIGHT, along, converted)
