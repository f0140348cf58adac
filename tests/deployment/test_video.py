from pathlib import Path

import cv2
import numpy as np
import pytest

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
    read = list(reader)
    assert len(read) == 5
    for frame, expected in zip(read, shown, strict=True):
        assert frame.dtype == np.uint8
        np.testing.assert_allclose(frame.astype(int), expected, atol=6)


@pytest.mark.parametrize("rate", [12.5, 25.0, 30000 / 1001, 23.976])
def test_writes_rate_size_and_frames(rate: float, tmp_path: Path):
    shown = frames(7, 50, 70)
    path = tmp_path / "deep" / "a.mp4"
    with video_writer(path, rate, (50, 70)) as add:
        for frame in shown:
            add(frame)
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["a.mp4"]
    reader = VideoReader(path)
    assert reader.rate == pytest.approx(rate, rel=1e-4)
    assert reader.size == (50, 70)
    for frame, expected in zip(reader, shown, strict=True):
        np.testing.assert_allclose(frame.astype(int), expected, atol=6)


def test_an_odd_row_and_column_are_cut(tmp_path: Path):
    with video_writer(tmp_path / "a.mp4", 25, (49, 65)) as add:
        add(frames(1, 49, 65)[0])
    assert VideoReader(tmp_path / "a.mp4").size == (48, 64)


def test_what_fails_on_the_way_leaves_nothing(tmp_path: Path):
    def fail() -> None:
        with video_writer(tmp_path / "a.mp4", 25, (48, 64)) as add:
            add(frames(1)[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rate", "size"), [(25, (1, 1)), (90000, (48, 64))])
def test_what_the_codec_cannot_write_is_one_line(rate: float, size: tuple[int, int], tmp_path: Path, capfd):
    with (
        pytest.raises(SegkdError, match=r"cannot write video .*a\.mp4: .*mp4v"),
        video_writer(tmp_path / "a.mp4", rate, size),
    ):
        pass
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
