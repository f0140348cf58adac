"""A saved student on images and videos: masks or boxes, and pictures of them."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from segkd.common.devices import find_device
from segkd.common.pixels import MAX_PIXELS, conversion_lines
from segkd.common.progress import has_bars
from segkd.common.reading import read_photo
from segkd.deployment.inputs import Source, find_sources
from segkd.deployment.results import RESULTS, BoxResults, MapResults, MaskResults, save_picture
from segkd.deployment.signature import Size
from segkd.deployment.video import VideoReader, video_writer
from segkd.errors import SegkdError
from segkd.training.opening import open_model

Item = TypeVar("Item")

# Pixels that a side of a JPEG may have.
_JPEG_SIDE = 65500


@dataclass
class Summary:
    """What `predict` has done.

    Attributes:
        out: where the results are.
        images: how many images there are results of.
        videos: how many videos,
        frames: and how many frames in them.
        problems: a line for each image or video that is left out, and for each video that ended early.
    """

    out: Path
    images: int = 0
    videos: int = 0
    frames: int = 0
    problems: list[str] = field(default_factory=list)

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
            is not of the student's task.
    """
    sources = find_sources(inputs)
    out = Path(out)
    _check_free(out)
    network = open_model(target, needs_config=False).network
    kind: Any = RESULTS.get(network.task, MapResults)
    options: dict[str, Any] = {"sliding": sliding or None, "window": window, "stride": stride, "flip": flip or None}
    options |= {"scales": scales, "alpha": alpha, "score_threshold": score_threshold}
    given = {key: value for key, value in options.items() if value is not None}
    foreign = [key for key in given if key not in (*kind.reads, *kind.writes)]
    _refuse(foreign, f"for {kind.others}, and {target} is {kind.noun}")
    if not given.pop("sliding", False):
        _refuse([key for key in ("window", "stride") if key in given], "for --sliding")
    elif kind is MaskResults:
        given["mode"] = "sliding"
    results = kind(network.info, out, **{key: value for key, value in given.items() if key in kind.writes})
    find = partial(network.predict, **{key: value for key, value in given.items() if key not in kind.writes})
    network.to(find_device(device))
    job = _Job(sources, find, results, batch_size, console, Summary(out), max_pixels)
    try:
        with job.bar, closing(results):
            job.run()
    except OSError as error:
        raise SegkdError(f"{out} cannot be written: {error.strerror or error}") from None
    return job.summary


class _Refused(Exception):
    """The model cannot take an image: nothing is left of it when it is resized, or it is too large for memory."""


class _Job:
    """The work on all sources: the images first, then each video."""

    def __init__(
        self,
        sources: list[Source],
        find: Callable[[list[np.ndarray]], list[Any]],
        results: BoxResults | MapResults | MaskResults,
        batch_size: int,
        console: Console,
        summary: Summary,
        max_pixels: int,
    ) -> None:
        self.sources, self.find, self.results, self.batch_size = sources, find, results, batch_size
        self.console, self.summary, self.max_pixels = console, summary, max_pixels
        self.converted: list[tuple[Path, list[str]]] = []
        self.overlays = summary.out / "overlays"
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not has_bars(console),
        )
        self.total = len(sources)  # later with the frames of each video, known when it is opened
        self.task = self.bar.add_task("predict", total=self.total)

    def run(self) -> None:
        for batch in _chunks(self._images(), self.batch_size):
            for (source, image), found in zip(batch, self._find([image for _, image in batch]), strict=True):
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
            self._print(line)
        for source in self.sources:
            if source.is_video:
                self._video(source)

    def _images(self) -> Iterator[tuple[Source, np.ndarray]]:
        """Yield the images that can be read; the others are named."""
        for source in self.sources:
            if not source.is_video:
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # PIL's, of images that it reads all the same
                        image, _, converted = read_photo(source.path, self.max_pixels)
                except SegkdError as error:
                    self._skip(str(error))
                else:
                    self.converted.append((source.path, converted))
                    yield source, image

    def _find(self, images: list[np.ndarray]) -> list[Any]:
        """Return what is found in each image, or why the model cannot take it."""
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
                for batch in _chunks(reader, self.batch_size):
                    images = [image for image, _ in batch]
                    for (image, seconds), found in zip(batch, self._find(images), strict=True):
                        if isinstance(found, _Refused):
                            raise found
                        number += 1
                        write(self.results.add(source, number, image, found), seconds)
                        self.bar.advance(self.task)
        except _Refused as error:
            self._expect(number - reader.count + 1)
            self._skip(f"the model cannot take video {source.path}: {error}")
            return
        self.summary.videos += 1
        self.summary.frames += number
        self._expect(number - reader.count)
        # Some formats only estimate how many frames there are.
        if number < 0.9 * reader.count:
            self._report(f"ended early: video {source.path} after {number} of about {reader.count} frames")

    def _expect(self, more: int) -> None:
        self.total += more
        self.bar.update(self.task, total=self.total)

    def _skip(self, problem: str) -> None:
        self._report(f"skipped: {problem}")
        self.bar.advance(self.task)

    def _report(self, problem: str) -> None:
        self.summary.problems.append(problem)
        self._print(problem)

    def _print(self, line: str) -> None:
        # A name may hold what the terminal's encoding has not: it is printed with escapes then.
        encoding = self.console.encoding
        shown = line.encode(encoding, "backslashreplace").decode(encoding)
        self.console.print(shown, soft_wrap=True, highlight=False, markup=False, emoji=False)


def _check_free(out: Path) -> None:
    if out.is_dir():
        if any(out.iterdir()):
            raise SegkdError(f"{out} holds other files: --out takes a folder that is empty or not there yet")
    elif out.exists():
        raise SegkdError(f"{out} is a file: --out takes a folder that is empty or not there yet")


def _refuse(options: list[str], reason: str) -> None:
    if options:
        names = " and ".join(f"--{key.replace('_', '-')}" for key in options)
        raise SegkdError(f"{names} {'is' if len(options) == 1 else 'are'} {reason}")


def _chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
