"""A saved student on images and videos: masks or boxes, and pictures of them."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image
from rich.console import Console

from segkd.common.devices import find_device
from segkd.common.plain import written
from segkd.common.progress import progress_bar, say
from segkd.common.reading import MAX_PIXELS, conversion_lines, read_photo
from segkd.deployment.inputs import Source, find_sources
from segkd.deployment.results import RESULTS, MapResults, save_picture
from segkd.deployment.signature import Size
from segkd.deployment.video import VideoReader, video_writer
from segkd.errors import SegkdError
from segkd.training.opening import open_model

Item = TypeVar("Item")

# Pixels that a side of a JPEG may have.
_JPEG_SIDE = 65500


@dataclass
class Summary:
    """What `predict` has done."""

    out: Path  # where the results are
    images: int = 0  # how many images there are results of
    videos: int = 0
    frames: int = 0  # in all videos
    problems: list[str] = field(default_factory=list)  # of each image or video left out, each video that ended early

    def __str__(self) -> str:
        """Return one line for a person."""
        text = f"{self.out}: results of {_count(self.images, 'image')}"
        if self.videos:
            text += f" and {_count(self.videos, 'video')} ({_count(self.frames, 'frame')})"
        return text + (f"; {_count(len(self.problems), 'problem')}, named above" if self.problems else "")


def predict(
    target: str | Path,
    inputs: Iterable[str],
    out: str | Path,
    console: Console,
    *,
    batch_size: int = 8,
    sliding: bool = False,
    window: Size | None = None,
    stride: Size | None = None,
    flip: bool = False,
    scales: Sequence[float] | None = None,
    alpha: float | None = None,
    score_threshold: float | None = None,
    device: str = "auto",
    max_pixels: int = MAX_PIXELS,
) -> Summary:
    """Run a student on images and videos, and write what it finds.

    Written are ``overlays``, of each image a JPEG (a PNG where a side is too long for one) and of each video an MP4
    that browsers play (of the same times and size, without sound, see `video_writer`), and ``masks`` (see
    `MaskResults`), ``detections.json`` (see `BoxResults`) or, for a task of one's own, ``maps`` (see `MapResults`). A
    file that cannot be read is left out. Images are read upright, by their orientation tag: so are all results.

    Args:
        target: a run, the folder of a saved student, or a config, see `segkd.training.opening.open_model`.
        inputs: files, folders and patterns, see `find_sources`.
        out: the folder that is written; absent or empty before. Below it the files lie as below the deepest folder
            that holds all inputs.
        console: where problems are printed, and progress if it is a terminal.
        batch_size: how many images or frames are read, and go through the model together if they have one size.
        sliding: of a segmentation: whether a window slides over the image; else the model sees it whole.
        window: of sliding, its height and width, see `segkd.segmentation.predict.predict`.
        stride: of sliding, its steps.
        flip: of a segmentation: whether mirrored images are read too.
        scales: of a segmentation: factors of the image's size; several are averaged.
        alpha: of a segmentation: opacity of the mask in overlays, 0 to 1; 0.5 unless given.
        score_threshold: of a detection: what scores less is left out; 0.3 unless given.
        device: where the student runs, see `find_device`.
        max_pixels: how many pixels an image may have.

    Raises:
        SegkdError: there is no student, an input matches nothing, `out` is in use or cannot be written, or an option
            is not of the student's task or has a wrong value.
    """
    shares = {"alpha": alpha, "score_threshold": score_threshold}
    _check(batch_size, max_pixels, scales, {"window": window, "stride": stride}, shares)
    sources = find_sources(inputs)
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = "holds other files" if out.is_dir() else "is a file"
        raise SegkdError(f"{out} {what}: --out takes a folder that is empty or not there yet")
    network = open_model(target, needs_config=False).network
    kind = RESULTS.get(network.task, MapResults)
    options: dict[str, Any] = {"sliding": sliding or None, "window": window, "stride": stride, "flip": flip or None}
    options |= {"scales": scales, **shares}
    given = {key: value for key, value in options.items() if value is not None}
    foreign = [key for key in given if key not in (*kind.reads, *kind.writes)]
    _refuse(foreign, f"for {kind.others}, and {target} is {kind.noun}")
    if given.pop("sliding", False):
        given["mode"] = "sliding"
    else:
        _refuse([key for key in ("window", "stride") if key in given], "for --sliding")
    results = kind(network.info, out, **{key: value for key, value in given.items() if key in kind.writes})
    find = partial(network.predict, **{key: value for key, value in given.items() if key not in kind.writes})
    network.to(find_device(device))
    job = _Job(find, results, batch_size, console)
    try:
        with job.bar, closing(results):
            job.run(sources, max_pixels)
    except OSError as error:
        raise SegkdError(f"{out} cannot be written: {error.strerror or error}") from None
    return job.summary


def _check(batch_size: Any, max_pixels: Any, scales: Any, windows: dict[str, Any], shares: dict[str, Any]) -> None:
    """Raise for what the command line's parser would refuse: a program's values come as they are."""
    if not (_is(Integral, batch_size) and batch_size >= 1):
        raise SegkdError(f"batch_size: expected a whole number, at least 1, got {written(batch_size)}")
    if not (_is(Real, max_pixels) and max_pixels >= 1 and max_pixels == max_pixels // 1):  # 2e9 too; not inf
        raise SegkdError(f"max_pixels: expected a whole number, at least 1, got {written(max_pixels)}")
    if scales is not None:
        is_list = isinstance(scales, Sequence) and not isinstance(scales, str) and scales
        if not (is_list and all(_is(Real, scale) and 0 < scale < math.inf for scale in scales)):
            raise SegkdError(f"scales: expected one or more numbers above 0, as in [0.75, 1], got {written(scales)}")
    for name, size in windows.items():
        sides = size if isinstance(size, list | tuple) else [size, size]
        if size is not None and not (len(sides) == 2 and all(_is(Integral, side) for side in sides)):
            raise SegkdError(f"{name}: expected pixels, N or (height, width) in whole numbers, got {written(size)}")

    for name, share in shares.items():
        if share is not None and not (_is(Real, share) and 0 <= share <= 1):
            raise SegkdError(f"{name}: expected a number from 0 to 1, got {written(share)}")


def _is(kind: type, value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _refuse(options: list[str], reason: str) -> None:
    if options:
        names = " and ".join(f"--{key.replace('_', '-')}" for key in options)
        raise SegkdError(f"{names} {'is' if len(options) == 1 else 'are'} {reason}")


class _Refused(Exception):
    """The model cannot take an image: nothing is left of it when it is resized, or it is too large for memory."""


class _Job:
    """The work on all sources: the images first, then each video."""

    def __init__(self, find: Callable[..., list[Any]], results: MapResults, batch_size: int, console: Console) -> None:
        self.find, self.results, self.batch_size, self.console = find, results, batch_size, console
        self.summary, self.overlays = Summary(results.out), results.out / "overlays"
        self.converted: list[tuple[Path, list[str]]] = []
        self.bar, self.total = progress_bar(console), 0
        self.task = self.bar.add_task("predict")

    def run(self, sources: list[Source], max_pixels: int) -> None:
        self._expect(len(sources))  # later with the frames of each video, known when it is opened
        images = self._images([source for source in sources if not source.is_video], max_pixels)
        for image, source, found in self._found(images):
            if isinstance(found, _Refused):
                self._skip(f"the model cannot take image {source.path}: {found}")
                continue
            picture = Image.fromarray(self.results.add(source, None, image, found))
            suffix = "jpg" if max(picture.size) <= _JPEG_SIDE else "png"
            # Without subsampling: thin coloured lines would fade.
            save_picture(picture, self.overlays / f"{source.name}.{suffix}", quality=92, subsampling=0)
            self.summary.images += 1
            self.bar.advance(self.task)
        for line in conversion_lines(self.converted):
            say(self.console, line)
        for source in sources:
            if source.is_video:
                self._video(source)

    def _images(self, sources: list[Source], max_pixels: int) -> Iterator[tuple[np.ndarray, Source]]:
        """Yield the images that can be read; the others are named."""
        for source in sources:
            try:
                with warnings.catch_warnings(action="ignore"):  # PIL's, of images that it reads all the same
                    photo = read_photo(source.path, max_pixels)
            except SegkdError as error:
                self._skip(str(error))
            else:
                self.converted.append((source.path, photo.converted))
                yield photo.pixels, source

    def _found(self, images: Iterable[tuple[np.ndarray, Item]]) -> Iterator[tuple[np.ndarray, Item, Any]]:
        """Yield images, and what comes with them, and what is found in each, or why the model cannot take it."""
        iterator = iter(images)
        while batch := list(islice(iterator, self.batch_size)):
            for (image, item), found in zip(batch, self._find([image for image, _ in batch]), strict=True):
                yield image, item, found

    def _find(self, images: list[np.ndarray]) -> list[Any]:
        try:
            return self.find(images)
        except (RuntimeError, MemoryError, cv2.error) as error:
            if len(images) > 1:
                return [found for image in images for found in self._find([image])]
            return [_Refused(" ".join(str(error).split())[:120] or type(error).__name__)]

    def _video(self, source: Source) -> None:
        number = 0
        try:
            with ExitStack() as stack:
                try:
                    reader = VideoReader(source.path)
                    path = self.overlays / f"{source.name}.mp4"
                    write = stack.enter_context(video_writer(path, reader.rate, reader.size))
                except SegkdError as error:
                    self._skip(str(error))
                    return
                self._expect(reader.count - 1)
                for image, seconds, found in self._found(reader):
                    if isinstance(found, _Refused):
                        raise found
                    number += 1
                    write(self.results.add(source, number, image, found), seconds)
                    self.bar.advance(self.task)
        except _Refused as error:
            self._report(f"skipped: the model cannot take video {source.path}: {error}")
        else:
            self.summary.videos += 1
            self.summary.frames += number
            # Some formats only estimate how many frames there are.
            if number < 0.9 * reader.count:
                self._report(f"ended early: video {source.path} after {number} of about {reader.count} frames")
        self._expect(number - reader.count)

    def _expect(self, more: int) -> None:
        self.total += more
        self.bar.update(self.task, total=self.total)

    def _skip(self, problem: str) -> None:
        self._report(f"skipped: {problem}")
        self.bar.advance(self.task)

    def _report(self, problem: str) -> None:
        self.summary.problems.append(problem)
        say(self.console, problem)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
