"""Look at a data set before training on it: every file read and every problem named, and a sheet of samples to see."""

import os
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.console import Console

from segkd.common.orientation import UPRIGHT
from segkd.common.pictures import comparison_grid, letterbox
from segkd.common.pixels import conversion_lines
from segkd.data.annotations import Annotations
from segkd.data.check import DatasetReport, choose, read_all, sizes_text, turned_lines
from segkd.detection.datasets import DetectionSpec
from segkd.detection.pictures import draw_boxes
from segkd.detection.reading import read_annotated, read_annotated_image, read_annotations, scan_annotations
from segkd.detection.transforms import Transform
from segkd.errors import SegkdError

_SHOWN = 5


@dataclass(frozen=True)
class SplitReport:
    """What one split holds.

    Attributes:
        split: its name.
        images: number of images annotated.
        sizes: (height, width) of the images -> how many have it.
        boxes: class name -> how many boxes.
        without: number of images without boxes.
        crowd: how many of the boxes are crowds.
        difficult: how many of the boxes are difficult.
        dropped: reason -> one line for each box left out, with its path. Training goes on without them, so that they
            are no problems.
        problems: one line for each thing that is wrong, with its path.
        remarks: one line for each thing that a person should know.
        turned: number of images that an orientation tag has turned,
        along: and of those whose boxes were turned with them.
        absent: the split is optional and there is nothing of it on disk.
    """

    split: str
    images: int = 0
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    boxes: dict[str, int] = field(default_factory=dict)
    without: int = 0
    crowd: int = 0
    difficult: int = 0
    dropped: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    turned: int = 0
    along: int = 0
    absent: bool = False

    def lines(self) -> list[str]:
        """Return what the report says of the split; of boxes left out, the first few of each reason."""
        counts = [*self.boxes.items(), ("(crowd)", self.crowd), ("(difficult)", self.difficult)]
        lines = [
            f"  {self.split}: {self.images} images, {self.without} without boxes; {sizes_text(self.sizes)}",
            *(f"    {name:<20} {count:8d}" for name, count in counts if count or not name.startswith("(")),
        ]
        for reason, places in self.dropped.items():
            lines.append(f"    left out, {reason}: {len(places)}")
            lines += [f"      {place}" for place in places[:_SHOWN]]
            lines += [f"      ... and {len(places) - _SHOWN} more"] if len(places) > _SHOWN else []
        lines += [f"    {remark}" for remark in self.remarks]
        return lines + turned_lines(self.turned, f"the boxes of {self.along}")


def check_dataset(
    spec: DetectionSpec, root: str | os.PathLike[str] | None = None, console: Console | None = None
) -> DatasetReport:
    """Read all annotations and every image, and report all that is wrong; never stops at the first.

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


def contact_sheet(
    spec: DetectionSpec,
    split: str,
    transform: Transform,
    count: int = 4,
    seed: int = 0,
    root: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw samples in rows, their boxes over the image, before and after augmentation.

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
    annotations = read_annotations(spec, split, root)
    draw = partial(draw_boxes, names=spec.class_names, colors=spec.colors)
    rows = []
    for index in choose(len(annotations), count, seed):
        image, objects, _ = read_annotated(annotations, index)
        out = transform(image, objects.boxes, seed=seed + index)
        # Padded before the boxes are drawn, which keeps their names as sharp as the others.
        padded = letterbox(out.image, image.shape)
        top, left = (np.array(padded.shape[:2]) - out.image.shape[:2]) // 2
        after = draw(padded, np.add(out.boxes, (left, top, left, top)), objects.labels[out.kept])
        rows.append([draw(image, objects.boxes, objects.labels), after])
    legend = list(zip(spec.class_names, spec.colors, strict=True))
    return Image.fromarray(comparison_grid(rows, ("boxes", "augmented boxes"), legend, tile=640))


def _check_split(
    spec: DetectionSpec, split: str, root: str | os.PathLike[str] | None, console: Console | None
) -> SplitReport:
    if spec.splits[split].optional and not spec.is_there(split, root):
        return SplitReport(split, absent=True)
    annotations, problems = scan_annotations(spec, split, root)
    sizes: Counter[tuple[int, int]] = Counter()
    turned = along = 0
    converted = []
    places = range(len(annotations))
    for look in read_all(partial(_check_image, annotations), places, f"{spec.name} {split}", console):
        if isinstance(look, str):
            problems.append(look)
            continue
        sizes[look.size] += 1
        turned += look.tag != UPRIGHT
        along += look.along != UPRIGHT
        converted.append(look.converted)
    objects = annotations.objects
    counts = np.bincount(objects.labels, minlength=spec.num_classes + 1)[1:]
    return SplitReport(
        split,
        len(annotations),
        dict(sizes),
        dict(zip(spec.class_names, counts.tolist(), strict=True)),
        sum(len(annotations.of(index).labels) == 0 for index in range(len(annotations))),
        int(objects.crowd.sum()),
        int(objects.difficult.sum()),
        annotations.dropped,
        problems,
        annotations.remarks + conversion_lines(converted),
        turned,
        along,
    )


class _Look(NamedTuple):
    """Of an image: its size, the tag that turned it, that which turned its boxes, and what of its file is lost."""

    size: tuple[int, int]
    tag: int
    along: int
    converted: tuple[Path, list[str]]


def _check_image(annotations: Annotations, index: int) -> _Look | str:
    """Return what there is to see of an image, or what is wrong with it."""
    try:
        image, tag, along, converted = read_annotated_image(annotations, index)
    except SegkdError as error:
        return str(error)
    return _Look((image.shape[0], image.shape[1]), tag, along, (annotations.images[index], converted))
