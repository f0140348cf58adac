"""The same validation pictures under each method, for a report."""

import base64
import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from rich.console import Console

from segkd.common.pictures import Color, Picture, comparison_grid
from segkd.common.progress import say
from segkd.comparison.records import Method
from segkd.data.samples import spread
from segkd.errors import SegkdError
from segkd.network import Network
from segkd.training.measure import seen_by
from segkd.training.task import Task
from segkd.training.tasks import task_of
from segkd.training.teacher import TeachersOf, teacher_configs

WIDTH = 480
"""Of a picture in the report, in pixels."""


@dataclass(frozen=True)
class Tile:
    """One picture of a validation image.

    Args:
        name: ``image``, ``label``, ``teacher`` or a method's.
        picture: uint8 RGB (H, W, 3).
        score: such as ``mIoU 61.20``, of a model on this image; empty for image and label.
    """

    name: str
    picture: Picture
    score: str = ""

    @property
    def caption(self) -> str:
        """Return name and score."""
        return f"{self.name}: {self.score}" if self.score else self.name

    @property
    def uri(self) -> str:
        """Return the picture as a data URI: an image as JPEG, what is painted in class colours alone as PNG."""
        image = Image.fromarray(np.ascontiguousarray(self.picture))
        is_photo = image.getcolors(256) is None
        if image.width > WIDTH:
            # Class colours stay exact: a blend of two may be a third's.
            how = Image.Resampling.LANCZOS if is_photo else Image.Resampling.NEAREST
            image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), how)
        written, kind = io.BytesIO(), "jpeg" if is_photo else "png"
        image.save(written, kind, quality=85, optimize=True)
        return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"


def strips(methods: Sequence[Method], count: int, console: Console) -> list[list[Tile]]:
    """Return ``count`` validation images spread over the split; of each the image, its label, the teacher, each method.

    A method is shown by the student of its first seed, with what that student's score is on this image alone. Where
    the data set or a student is not at hand, there are none.
    """
    try:
        return _strips(methods, count)
    except SegkdError as error:
        say(console, f"the report has no pictures: {error}")
        return []


def _strips(methods: Sequence[Method], count: int) -> list[list[Tile]]:
    task = task_of(methods[0].first.config)
    dataset = task.val_set()
    shown = spread(list(range(len(dataset))), count)
    items = [dataset[index] for index in shown]
    found = [[Tile("image", item["image"].permute(1, 2, 0).numpy()), Tile("label", task.draw(item))] for item in items]
    with torch.no_grad():
        for name, role, of, network in _models(methods):
            # Each under its own config: normalisation and size of the images are a method's own.
            own = of.val_set()
            for tiles, index in zip(found, shown, strict=True):
                item = seen_by(role, own[index])
                metrics = of.metrics(sync_on_compute=False)
                of.count(metrics, network, own.collate([item]))
                score = f"{of.score.label} {of.score.shown(metrics.compute()[of.score.key])}"
                tiles.append(Tile(name, of.draw(item, network), score))
    return found


def grid(found: Sequence[Sequence[Tile]], methods: Sequence[Method]) -> Picture:
    """Return the same as one picture: a row for each image."""
    rows = [[tile.picture for tile in tiles] for tiles in found]
    return comparison_grid(rows, [tile.name for tile in found[0]], legend(methods))


def legend(methods: Sequence[Method]) -> list[tuple[str, Color]]:
    """Return names and colours of the classes."""
    spec = task_of(methods[0].first.config).spec
    return list(zip(spec.class_names, spec.colors, strict=True))


def _models(methods: Sequence[Method]) -> Iterator[tuple[str, str, Task, Network]]:
    """Yield name, role, task and model: the teachers of the first that has some at hand, and each method's student."""
    taught = next((method.first.config for method in methods if method.first.config.named_teachers()), None)
    if taught is not None:
        task = task_of(taught)
        with contextlib.suppress(SegkdError):
            teachers = TeachersOf(task, teacher_configs(taught))
            teachers.load(to_measure=True)
            for name, network in teachers.predicting.items():
                yield name, "teacher", task, network.eval()
    for method in methods:
        task = task_of(method.first.config)
        yield method.name, "student", task, task.load_student(method.first.run.student)
