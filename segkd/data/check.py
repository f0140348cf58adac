"""Look at a data set before training on it: every file read and every problem named, and a sheet of samples to see."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from rich.console import Console

from segkd.common.pictures import Picture, comparison_grid
from segkd.common.reading import conversion_lines, read_photo
from segkd.data.annotations import Objects
from segkd.data.description import DatasetSpec, Root
from segkd.data.masks import MaskSamples, MaskSpec
from segkd.data.samples import read_all, spread
from segkd.errors import SegkdError

if TYPE_CHECKING:  # torch and albumentations, which a check does without
    from segkd.data.dataset import SeededDataset
    from segkd.data.transforms import Transform

SHOWN, SHOWN_DROPPED = 20, 5
"""How many problems a report lists, and how many objects left out for one reason; of others it says how many."""

COUNTED = 1000
"""How many masks are counted for the shares of the classes."""


@dataclass(frozen=True)
class SplitReport:
    """What one split holds."""

    split: str
    images: int = 0  # how many
    heading: str = ""  # that in words
    sizes: Mapping[tuple[int, int], int] = field(default_factory=dict)  # (height, width) -> how many images have it
    # Of each class its share of all pixels in %, or how many boxes it has; what counts for nothing stands in brackets.
    counts: dict[str, Any] = field(default_factory=dict)
    # Reason -> a line for each object left out, with its path. Training goes on without them: they are no problems.
    dropped: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # one line for each thing that is wrong, with its path
    remarks: list[str] = field(default_factory=list)  # one line for each thing that a person should know
    turned: str = ""  # how many images an orientation tag has turned upright, and what with them
    absent: bool = False  # the split is optional and there is nothing of it on disk

    def lines(self) -> list[str]:
        """Return what the report says of the split; of objects left out, the first few of each reason."""
        lines = [f"  {self.split}: {self.heading}; {sizes_text(self.sizes)}"]
        for name, count in self.counts.items():
            lines.append(f"    {name:<20} {count:8d}" if isinstance(count, int) else f"    {name:<20} {count:6.2f} %")
        for reason, places in self.dropped.items():
            lines.append(f"    left out, {reason}: {len(places)}")
            lines += [f"      {place}" for place in places[:SHOWN_DROPPED]]
            lines += [f"      ... and {len(places) - SHOWN_DROPPED} more"] if len(places) > SHOWN_DROPPED else []
        lines += [f"    {remark}" for remark in self.remarks]
        return [*lines, f"    turned upright by their orientation tag: {self.turned}"] if self.turned else lines


def sizes_text(sizes: Mapping[tuple[int, int], int]) -> str:
    """Say which sizes are common, from (height, width) of the images -> how many have it."""
    common = sorted(sizes.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{width}x{height} ({count})" for (height, width), count in common[:4])
    more = f" and {len(common) - 4} other sizes" if len(common) > 4 else ""
    return f"width x height {listed or 'unknown'}{more}"


@dataclass(frozen=True)
class DatasetReport:
    """What a data set, looked for in ``root``, holds; as text, a table of it with the first problems below."""

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


def check_dataset(spec: DatasetSpec, root: Root = None, console: Console | None = None) -> DatasetReport:
    """Read every image and label of every split and report all that is wrong; only a missing root is an error."""
    spec.existing_root(root)
    reports = []
    for split, part in spec.splits.items():
        if part.optional and not spec.is_there(split, root):
            reports.append(SplitReport(split, absent=True))
            continue
        samples = spec.scan(split, root)
        looks = list(read_all(samples.look, range(len(samples)), f"{spec.name} {split}", console))
        counts, problems, remarks = samples.tally(looks)
        converted = conversion_lines((path, look.converted) for path, look in zip(samples.images, looks, strict=True))
        turned, along = sum(look.turned for look in looks), sum(look.along for look in looks)
        report = SplitReport(
            split,
            len(samples),
            samples.heading(),
            Counter(look.size for look in looks if look.size is not None),
            counts,
            samples.dropped,
            [*samples.problems, *(problem for look in looks for problem in look.problems), *problems],
            [*samples.remarks, *remarks, *converted],
            f"{turned} images, and the {samples.noun} of {along} with them" if turned else "",
        )
        reports.append(report)
    return DatasetReport(spec.name, spec.resolve_root(root), reports)


def check_unlabelled(images: Sequence[Path], max_pixels: int, console: Console | None = None) -> SplitReport:
    """Read every one of images without labels and report all that is wrong."""

    def look(path: Path) -> tuple[int, int] | str:
        try:
            height, width = read_photo(path, max_pixels).pixels.shape[:2]
        except SegkdError as error:
            return str(error)
        return height, width

    looks = list(read_all(look, images, "unlabelled", console))
    sizes = Counter(size for size in looks if not isinstance(size, str))
    problems = [problem for problem in looks if isinstance(problem, str)]
    return SplitReport("unlabelled", len(images), f"{len(images)} images", sizes, problems=problems)


def class_shares(dataset: "SeededDataset") -> list[float]:
    """Return each class's share of the pixels that have one, in the order of the classes; they sum to 1.

    At most `COUNTED` masks are counted, spread over the data set, always the same.

    Raises:
        SegkdError: it has no masks, one of them cannot be read, or no pixel has a class.
    """
    samples, spec = dataset.samples, dataset.samples.spec
    if not isinstance(samples, MaskSamples):
        raise SegkdError(f"data set {spec.name!r} holds {spec.holds}: there are no shares of classes to count")
    counts = samples.pixels(spread(list(dataset.indices), COUNTED))[: spec.num_classes]
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
    root: Root = None,
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
    """
    samples = spec.samples(split, root)
    has_masks = isinstance(spec, MaskSpec)  # which hide what they lie over
    rows: list[list[Picture | None]] = []
    for index in (samples.chosen[place] for place in choose(len(samples.chosen), count, seed)):
        sample = samples.read(index)
        after, label = transform(sample.image, sample.label, seed + index)
        if has_masks and after.shape[:2] != label.shape:  # validation resizes the image alone
            after = np.asarray(Image.fromarray(after).resize((label.shape[1], label.shape[0])))
        # Before the label is painted over it, which keeps names as sharp as those of the other.
        after, label = letterbox(after, label, sample.image.shape, getattr(spec, "ignore_index", 0))
        rows.append([])
        for image, over in ((sample.image, sample.label), (after, label)):
            rows[-1] += [image, paint(image, over)] if has_masks else [paint(image, over)]
    headers = ("image", "label", "augmented image", "augmented label") if has_masks else ("boxes", "augmented boxes")
    legend = list(zip(spec.class_names, spec.colors, strict=True))
    return Image.fromarray(comparison_grid(rows, headers, legend, tile=360 if has_masks else 640))


def choose(total: int, count: int, seed: int) -> list[int]:
    """Return the indices of ``count`` samples out of ``total``, drawn without repetition."""
    if count < 1:
        raise SegkdError(f"a contact sheet shows at least 1 sample, got count={count}")
    return np.random.default_rng(seed).permutation(total)[:count].tolist()


def letterbox(image: Picture, label: Any, shape: tuple[int, ...], nothing: int = 0) -> tuple[Picture, Any]:
    """Pad an image with white to the aspect ratio of ``shape``, so that a crop is not stretched beside its image.

    A mask is padded with ``nothing``, boxes are moved along.
    """
    height, width = image.shape[:2]
    high = max(round(width * shape[0] / shape[1]) - height, 0)
    wide = max(round(height * shape[1] / shape[0]) - width, 0)
    top, left = high // 2, wide // 2
    around = (top, high - top), (left, wide - left)
    padded = np.pad(image, (*around, (0, 0)), constant_values=255)
    if isinstance(label, Objects):
        return padded, label._replace(boxes=np.add(label.boxes, (left, top, left, top)))
    return padded, np.pad(label, around, constant_values=nothing)
