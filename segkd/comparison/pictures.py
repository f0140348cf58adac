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
from torch import nn

from segkd.common.pictures import Color, Picture
from segkd.comparison.records import Method
from segkd.errors import SegkdError
from segkd.training.results import LABELS, percent
from segkd.training.task import BuiltTeacher, Task
from segkd.training.tasks import task_of
from segkd.training.teacher import teacher_config

WIDTH = 480
"""Of a picture in the report, in pixels."""


@dataclass(frozen=True)
class Strip:
    """One validation image: the pictures of it, each with its caption."""

    tiles: list[tuple[str, str]]
    """Caption and data URI."""


def strips(methods: Sequence[Method], count: int, console: Console) -> list[Strip]:
    """Return ``count`` validation images spread over the split: the image, its label, the teacher, each method.

    A method is shown by the student of its first seed, with what that student's score is on this image alone. Where
    the data set is not at hand, there are none.
    """
    task = task_of(methods[0].first.config)
    try:
        dataset = task.val_set()
    except SegkdError as error:
        console.print(f"the report has no pictures: {error}", highlight=False, soft_wrap=True, markup=False)
        return []
    shown = sorted({int((number + 0.5) * len(dataset) / count) for number in range(count)})
    items = [dataset[index] for index in shown]
    found = [[("image", _uri(item["image"].permute(1, 2, 0).numpy(), lossy=True))] for item in items]
    for tiles, item in zip(found, items, strict=True):
        tiles.append(("label", _uri(task.draw(item))))
    with torch.no_grad():
        for name, of, model, teacher in _models(methods):
            # Each under its own config: normalisation and size of the images are a method's own.
            own = of.val_set()
            for tiles, index in zip(found, shown, strict=True):
                item = own[index]
                metrics = of.metrics(sync_on_compute=False)
                of.count(metrics, model, own.collate([item]), teacher)
                value = metrics.compute()[of.score]
                caption = f"{name}: {LABELS[of.score]} {percent(value)}"
                tiles.append((caption, _uri(of.draw(item, model, teacher))))
    return [Strip(tiles) for tiles in found]


def legend(methods: Sequence[Method]) -> list[tuple[str, Color]]:
    """Return names and colours of the classes."""
    spec = task_of(methods[0].first.config).spec
    return list(zip(spec.class_names, spec.colors, strict=True))


def _models(methods: Sequence[Method]) -> Iterator[tuple[str, Task, nn.Module, BuiltTeacher | None]]:
    """Yield the first teacher, where its weights are at hand, and each method's student."""
    taught = next((method.first.config for method in methods if method.first.config.teacher is not None), None)
    if taught is not None:
        task = task_of(taught)
        with contextlib.suppress(SegkdError):
            teacher = task.teacher(teacher_config(taught))
            task.load_teacher(teacher, to_measure=True)
            yield "teacher", task, teacher.model.eval(), teacher
    for method in methods:
        task = task_of(method.first.config)
        yield method.name, task, task.load_student(method.first.run.student), None


def _uri(picture: Picture, lossy: bool = False) -> str:
    image = Image.fromarray(np.ascontiguousarray(picture))
    if image.width > WIDTH:
        # Class colours stay exact: a blend of two may be a third's.
        how = Image.Resampling.LANCZOS if lossy else Image.Resampling.NEAREST
        image = image.resize((WIDTH, round(image.height * WIDTH / image.width)), how)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=85) if lossy else image.save(written, "PNG", optimize=True)
    kind = "jpeg" if lossy else "png"
    return f"data:image/{kind};base64,{base64.b64encode(written.getvalue()).decode()}"
