from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from segkd.deployment import video
from segkd.deployment.video import VideoReader, video_writer
from segkd.errors import SegkdError


def frames(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Frames of one colour each, which a codec hardly changes."""
    colors = np.random.default_rng(0).integers(0, 256, (count, 3))
    return [np.broadcast_to(color, (height, width, 3)).astype(np.uint8) for color in colors]


def write(path: Path, shown: list[np.ndarray], rate: float = 12.5, codec: str = "MJPG") -> Path:
    """Write a video with OpenCV alone."""
    height, width = shown[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, (width, height))
    assert writer.isOpened()
    for frame in shown:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.mkv", "mp4v")])
def test_reads_rgb_frames_in_order_with_rate_and_size(name: str, codec: str, tmp_path: Path):
    shown = frames(5)
    reader = VideoReader(write(tmp_path / name, shown, codec=codec))
    assert (reader.count, reader.rate, reader.size) == (5, 12.5, (48, 64))
    read, times = zip(*reader, strict=True)
    assert times == pytest.approx([index / 12.5 for index in range(5)])
    assert len(read) == 5
    for frame, expected in zip(read, shown, strict=True):
        assert frame.dtype == np.uint8
        np.testing.assert_allclose(frame.astype(int), expected, atol=6)


@pytest.fixture(params=["pyav", "opencv"])
def writer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What writes: PyAV if it is installed."""
    if request.param == "opencv":
        monkeypatch.setattr(video.importlib.util, "find_spec", {}.get)
    return request.param


@pytest.mark.parametrize("rate", [12.5, 25.0, 30000 / 1001, 23.976])
def test_writes_rate_size_and_frames(rate: float, writer: str, tmp_path: Path):
    shown = frames(7, 50, 70)
    path = tmp_path / "deep" / "a.mp4"
    with video_writer(path, rate, (50, 70)) as add:
        for index, frame in enumerate(shown):
            add(frame, index / rate)
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]
    reader = VideoReader(path)
    assert reader.rate == pytest.approx(rate, rel=1e-4)
    assert reader.size == (50, 70)
    for (frame, _), expected in zip(reader, shown, strict=True):
        np.testing.assert_allclose(frame.astype(int), expected, atol=6)


def test_browsers_play_what_is_written(writer: str, tmp_path: Path):
    with video_writer(tmp_path / "a.mp4", 25, (48, 64)) as add:
        for index, frame in enumerate(frames(4)):
            add(frame, index / 25)
    with av.open(str(tmp_path / "a.mp4")) as file:
        codec = file.streams.video[0].codec_context
        assert (codec.name, codec.pix_fmt) == ({"pyav": "h264", "opencv": "vp9"}[writer], "yuv420p")


def test_a_varying_rate_keeps_its_times(writer: str, tmp_path: Path):
    ticks = [0, 100, 200, 900, 1000, 1700, 1800, 3000, 3100, 3200]  # milliseconds
    source = tmp_path / "source.mkv"
    with av.open(str(source), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for tick, shown in zip(ticks, frames(len(ticks)), strict=True):
            frame = av.VideoFrame.from_ndarray(shown)
            frame.pts, frame.time_base = tick, Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    reader = VideoReader(source)
    found = []
    with video_writer(tmp_path / "a.mp4", reader.rate, reader.size) as add:
        for frame, seconds in reader:
            found.append(seconds)
            add(frame, seconds)
    assert found == pytest.approx([tick / 1000 for tick in ticks], abs=0.002)
    written = [seconds for _, seconds in VideoReader(tmp_path / "a.mp4")]
    assert written[-1] == pytest.approx(3.2, abs=1 / reader.rate)
    if writer == "pyav":
        assert written == pytest.approx(found, abs=0.002)
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert file.duration / av.time_base == pytest.approx(3.2 + 1 / reader.rate, abs=1 / reader.rate)


def test_an_odd_row_and_column_are_cut(writer: str, tmp_path: Path):
    with video_writer(tmp_path / "a.mp4", 25, (49, 65)) as add:
        add(frames(1, 49, 65)[0], 0)
    assert VideoReader(tmp_path / "a.mp4").size == (48, 64)


def test_what_fails_on_the_way_leaves_nothing(writer: str, tmp_path: Path):
    def fail() -> None:
        with video_writer(tmp_path / "a.mp4", 25, (48, 64)) as add:
            add(frames(1)[0], 0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("size", "says"), [((1, 1), "1x1, the least is 2x2"), ((2, 80000), "80000x2")])
def test_what_the_codec_cannot_write_is_one_line(size: tuple[int, int], says: str, writer: str, tmp_path: Path, capfd):
    with (
        pytest.raises(SegkdError, match=rf"^cannot write video .*a\.mp4: .*({says})"),
        video_writer(tmp_path / "a.mp4", 25, size) as add,
    ):
        add(np.zeros((*size, 3), np.uint8), 0)
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_read_is_one_line(tmp_path: Path, capfd):
    whole = write(tmp_path / "whole.avi", frames(3)).read_bytes()
    (tmp_path / "codec.avi").write_bytes(whole.replace(b"MJPG", b"zqzq"))
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mkv").touch()
    for name in ("codec.avi", "text.mp4", "empty.mkv", "absent.mp4"):
        with pytest.raises(SegkdError, match=f"cannot read video .*{name}: .*codec"):
            VideoReader(tmp_path / name)
    assert capfd.readouterr() == ("", "")
