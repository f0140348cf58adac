"""Look at a data set before training on it: every file read and every problem named, and a sheet of samples to see."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console

from segkd.common.pictures import Picture, comparison_grid, letterbox
from segkd.common.pixels import conversion_lines
from segkd.data.annotations import Objects
from segkd.data.description import DatasetSpec
from segkd.data.masks import MaskSpec
from segkd.data.occurrence import pixels
from segkd.data.samples import SplitReport, read_all, spread
from segkd.errors import SegkdError

if TYPE_CHECKING:  # torch and albumentations, which a check does without
    from segkd.data.dataset import SeededDataset
    from segkd.data.transforms import Transform

SHOWN = 20
"""How many problems a report lists; of the others it says how many there are."""

COUNTED = 1000
"""How many masks are counted for the shares of the classes."""


@dataclass(frozen=True)
class DatasetReport:
    """What a data set holds; as text, a table of it with the first problems below.

    Attributes:
        name: the data set.
        root: where it was looked for.
        splits: a report for each split.
    """

    name: str
    root: Path
    splits: Sequence[SplitReport]

    @property
    def problems(self) -> list[str]:
        """The problems of all splits."""
        return [problem for report in self.splits for problem in report.problems]

    def __str__(self) -> str:
        lines = [f"{self.name} in {self.root}"]
        for report in self.splits:
            lines += [f"  {report.split}: not there (optional)"] if report.absent else report.lines()
        lines.append(f"  {len(self.problems)} problem(s)")
        lines += [f"    {problem}" for problem in self.problems[:SHOWN]]
        more = len(self.problems) - SHOWN
        return "\n".join([*lines, *([f"    ... and {more} more"] if more > 0 else [])])


def check_dataset(
    spec: DatasetSpec, root: str | os.PathLike[str] | None = None, console: Console | None = None
) -> DatasetReport:
    """Read every image and label of every split and report all that is wrong; never stops at the first.

    Args:
        spec: the data set.
        root: where the data lie, if not where the spec says.
        console: where progress is shown if it is a terminal; None for nowhere.

    Raises:
        SegkdError: the root itself is missing.
    """
    spec.existing_root(root)
    reports = [_check_split(spec, split, root, console) for split in spec.splits]
    return DatasetReport(spec.name, spec.resolve_root(root), reports)


def _check_split(
    spec: DatasetSpec, split: str, root: str | os.PathLike[str] | None, console: Console | None
) -> SplitReport:
    if spec.splits[split].optional and not spec.is_there(split, root):
        return SplitReport(split, absent=True)
    samples = spec.scan(split, root)
    looks = list(read_all(samples.look, range(len(samples)), f"{spec.name} {split}", console))
    counts, problems, remarks = samples.tally(looks)
    converted = conversion_lines((path, look.converted) for path, look in zip(samples.images, looks, strict=True))
    turned, along = sum(look.turned for look in looks), sum(look.along for look in looks)
    return SplitReport(
        split,
        len(samples),
        samples.heading(),
        dict(Counter(look.size for look in looks if look.size is not None)),
        counts,
        samples.dropped,
        [*samples.problems, *(problem for look in looks for problem in look.problems), *problems],
        [*samples.remarks, *remarks, *converted],
        f"{turned} images, and the {samples.noun} of {along} with them" if turned else "",
    )


def class_shares(dataset: "SeededDataset") -> list[float]:
    """Return each class's share of the pixels that have one, in the order of the classes; they sum to 1.

    Args:
        dataset: of masks; of its images at most `COUNTED` are counted, spread over it, always the same.

    Raises:
        SegkdError: it has no masks, one of them cannot be read, or no pixel has a class.
    """
    samples, spec = dataset.samples, dataset.samples.spec
    if not isinstance(spec, MaskSpec):
        raise SegkdError(f"data set {spec.name!r} holds {spec.holds}: there are no shares of classes to count")
    counts = pixels(samples, spread(list(dataset.indices), COUNTED))[: spec.num_classes]
    if not counts.sum():
        raise SegkdError(f"{spec.name} {samples.split}: no pixel has a class")
    return (counts / counts.sum()).tolist()


def contact_sheet(
    spec: DatasetSpec,
    split: str,
    transform: "Transform",
    paint: Callable[[np.ndarray, Any], Picture],
    count: int = 4,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw samples in rows: labels over images, before and after augmentation, with a legend of the classes.

    Args:
        spec: the data set.
        split: which split of it.
        transform: what is shown as augmentation.
        paint: called (image, label), returns the label over the image.
        count: how many samples, drawn without repetition.
        seed: what the choice of samples and the augmentation derive from.
        root: where the data lie, if not where the spec says.

    Raises:
        SegkdError: a count below 1, or whatever keeps the samples from being read.
    """
    samples = spec.samples(split, root)
    has_masks = isinstance(spec, MaskSpec)  # which hide what they lie over
    rows: list[list[Picture | None]] = []
    for index in choose(len(samples), count, seed):
        sample = samples.read(index)
        after, label = transform(sample.image, sample.label, seed + index)
        if has_masks and after.shape[:2] != label.shape:  # validation resizes the image alone
            after = np.asarray(Image.fromarray(after).resize((label.shape[1], label.shape[0])))
        after, label = _padded(after, label, sample.image.shape, getattr(spec, "ignore_index", 0))
        rows.append([])
        for image, over in ((sample.image, sample.label), (after, label)):
            rows[-1] += [image, paint(image, over)] if has_masks else [paint(image, over)]
    headers = ("image", "label", "augmented image", "augmented label") if has_masks else ("boxes", "augmented boxes")
    legend = list(zip(spec.class_names, spec.colors, strict=True))
    return Image.fromarray(comparison_grid(rows, headers, legend, tile=360 if has_masks else 640))


def choose(total: int, count: int, seed: int) -> list[int]:
    """Return the indices of ``count`` samples out of ``total``, drawn without repetition.

    Raises:
        SegkdError: a count below 1.
    """
    if count < 1:
        raise SegkdError(f"a contact sheet shows at least 1 sample, got count={count}")
    return np.random.default_rng(seed).permutation(total)[:count].tolist()


def _padded(image: np.ndarray, label: Any, shape: tuple[int, ...], nothing: int) -> tuple[np.ndarray, Any]:
    """Pad an image with white to the aspect ratio of ``shape``, so that a crop is not stretched beside its image.

    Before the label is painted over it, which keeps names as sharp as those of the other.
    """
    padded = letterbox(image, shape)
    top, left = (np.array(padded.shape[:2]) - image.shape[:2]) // 2
    if isinstance(label, Objects):
        return padded, label._replace(boxes=np.add(label.boxes, (left, top, left, top)))
    around = np.full(padded.shape[:2], nothing, dtype=label.dtype)
    around[top : top + label.shape[0], left : left + label.shape[1]] = label
    return padded, around
