"""Reading and writing videos with OpenCV: an error of one line where it cannot, and no file that is half a video."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from segkd.common.files import replacing
from segkd.common.pictures import Picture
from segkd.errors import SegkdError

# What OpenCV and FFmpeg write to the terminal themselves when a file or codec fails them: the error says it better.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

_CODEC = "mp4v"  # MPEG-4 part 2, which every wheel of OpenCV can write


class VideoReader:
    """A video's frames, once, in order.

    Args:
        path: the file.

    Attributes:
        count: how many frames the file says it has, at least 1.
        rate: frames per second; 25 where the file does not say.
        size: height and width of the frames.

    Raises:
        SegkdError: the file is no video, or its codec is missing.
    """

    def __init__(self, path: Path) -> None:
        self._capture = cv2.VideoCapture(str(path))
        there, self._first = self._capture.read()
        if not there:
            raise SegkdError(f"cannot read video {path}: it is damaged, or OpenCV lacks its codec")
        self.count = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 1)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if rate > 0 else 25.0
        self.size = (self._first.shape[0], self._first.shape[1])

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield frames, uint8 RGB (H, W, 3), until the last that can be read."""
        there, frame = True, self._first
        while there:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            there, frame = self._capture.read()
        self._capture.release()


@contextmanager
def video_writer(path: Path, rate: float, size: tuple[int, int]) -> Iterator[Callable[[Picture], object]]:
    """Give a function that adds a frame, uint8 RGB (H, W, 3), to a video; the file is there when all frames are.

    Args:
        path: the file, ``.mp4``; its folder is made if absent.
        rate: frames per second.
        size: height and width of the frames; of odd ones the last row or column is lost, as the codec has none.

    Raises:
        SegkdError: OpenCV cannot write such a video.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = size
    with replacing(path, sync=False) as scratch:
        writer = cv2.VideoWriter(str(scratch), cv2.VideoWriter.fourcc(*_CODEC), rate, (width, height))
        try:
            if not writer.isOpened():
                raise SegkdError(
                    f"cannot write video {path}: OpenCV has no codec {_CODEC} for {width}x{height} at {rate:g} frames/s"
                )
            yield lambda frame: writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        finally:
            writer.release()
