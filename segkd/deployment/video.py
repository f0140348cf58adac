"""Reading videos and writing such as browsers play: an error of one line where that fails, and no half a file."""

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segkd.common.files import replacing
from segkd.common.pictures import Picture
from segkd.errors import SegkdError

# What OpenCV and FFmpeg write to the terminal themselves when a file or codec fails them: the error says it better.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

# What plays in browsers, the best first: PyAV's wheels bring the first, OpenCV's can write VP9 alone, ten times slower.
_ENCODERS = {"libx264": {"preset": "veryfast", "crf": "18"}, "libopenh264": {}, "libvpx-vp9": {}}
_TICKS = 90000  # of a second, in which PyAV is told when a frame is shown

Add = Callable[[Picture, float], object]


class VideoReader:
    """A video's frames, once, in order.

    Attributes:
        count: how many frames the file says it has, at least 1.
        rate: frames per second, the mean where they vary; 25 where the file does not say.
        size: height and width of the frames.

    Raises:
        SegkdError: the file is no video, or its codec is missing.
    """

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(str(path))
        there, self._first = self._capture.read()
        if not there:
            raise SegkdError(f"cannot read video {path}: it is damaged, or OpenCV lacks its codec")
        self._begin = self._capture.get(cv2.CAP_PROP_POS_MSEC)
        self.count = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 1)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if rate > 0 else 25.0
        self.size = (self._first.shape[0], self._first.shape[1])

    def __iter__(self) -> Iterator[tuple[np.ndarray, float]]:
        """Yield frames, uint8 RGB (H, W, 3), until the last that can be read, and how many seconds after the first."""
        there, frame, shown = True, self._first, 0.0
        while there:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), shown
            there, frame = self._capture.read()
            seconds = (self._capture.get(cv2.CAP_PROP_POS_MSEC) - self._begin) / 1000
            shown = (
                seconds if seconds > shown else shown + 1 / self.rate
            )  # where the file does not say, at the mean rate
        self._capture.release()


@contextlib.contextmanager
def video_writer(path: Path, rate: float, size: tuple[int, int]) -> Iterator[Add]:
    """Give a function that adds a frame, uint8 RGB (H, W, 3), to a video; the file is there when all frames are.

    It is called with the frame and how many seconds after the first it is shown, more for each. With PyAV the codec is
    H.264. Without it OpenCV writes VP9, which takes longer and has one rate: where that of the source varies, frames
    are repeated or left out, so that what is shown when stays the same. Browsers play both.

    The file is an ``.mp4``, whose folder is made if absent; of frames of an odd height or width the last row or column
    is lost, as the codecs have none. What cannot be written is a SegkdError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (side // 2 * 2 for side in size)
    if not (height and width):
        raise SegkdError(f"cannot write video {path}: its frames are {size[1]}x{size[0]}, the least is 2x2")
    make = _by_opencv if importlib.util.find_spec("av") is None else _by_pyav
    with replacing(path, sync=False) as scratch, make(path, scratch, rate, height, width) as add:
        yield lambda frame, seconds: add(np.ascontiguousarray(frame[:height, :width]), seconds)


@contextlib.contextmanager
def _by_pyav(path: Path, scratch: Path, rate: float, height: int, width: int) -> Iterator[Add]:
    import av

    name = next((name for name in _ENCODERS if name in av.codecs_available), None)
    if name is None:
        raise SegkdError(f"cannot write video {path}: this PyAV has none of {', '.join(_ENCODERS)}")
    try:
        # The index in front: a browser plays before all is loaded.
        with av.open(str(scratch), "w", format="mp4", options={"movflags": "+faststart"}) as file:
            stream: Any = file.add_stream(name, rate=Fraction(rate).limit_denominator(_TICKS), options=_ENCODERS[name])
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
            stream.codec_context.time_base = Fraction(1, _TICKS)
            last = -1

            def add(frame: Picture, seconds: float) -> None:
                nonlocal last
                last = max(round(seconds * _TICKS), last + 1)
                image = av.VideoFrame.from_ndarray(frame, format="rgb24")
                image.pts, image.time_base = last, Fraction(1, _TICKS)
                file.mux(stream.encode(image))

            yield add
            file.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise SegkdError(
            f"cannot write video {path}: {name} of {width}x{height} at {rate:g} frames/s: {error.strerror}"
        ) from None


@contextlib.contextmanager
def _by_opencv(path: Path, scratch: Path, rate: float, height: int, width: int) -> Iterator[Add]:
    writer = cv2.VideoWriter(str(scratch), cv2.VideoWriter.fourcc(*"vp09"), rate, (width, height))
    written, latest = 0, None

    def add(frame: Picture, seconds: float) -> None:
        nonlocal written, latest
        image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        latest = image if latest is None else latest
        while written < round(seconds * rate):
            writer.write(latest)
            written += 1
        latest = image

    try:
        if not writer.isOpened():
            raise SegkdError(
                f"cannot write video {path}: OpenCV has no codec that browsers play for {width}x{height} at {rate:g} "
                'frames/s: pip install "segkd[video]" brings one'
            )
        yield add
        if latest is not None:
            writer.write(latest)
    finally:
        writer.release()
