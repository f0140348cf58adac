"""What `segkd predict` cannot read, take or write, and what does not go together."""

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import clip, files, frames
from experiments import refused, segkd
from PIL import Image
from rich.console import Console

import segkd as api
from segkd.deployment.predict import predict
from segkd.errors import SegkdError


class TestBadInput:
    def test_unreadable_files_are_named_skipped_and_counted(self, run: Path, photos: Path, tmp_path: Path):
        folder, out = tmp_path / "in", tmp_path / "out"
        folder.mkdir()
        whole = (photos / "b/1.png").read_bytes()
        for index in range(6):
            (folder / f"{index}.png").write_bytes(whole if index % 2 else whole[:60])
        (folder / "text.mp4").write_text("no video")
        codec = clip(folder / "codec.avi", 2)
        codec.write_bytes(codec.read_bytes().replace(b"MJPG", b"zqzq"))
        clip(folder / "tiny.avi", 2, size=(1, 1))
        outcome = segkd("predict", run, folder, "--out", out, "--batch-size", 2)
        assert (outcome.status, outcome.err) == (1, "")
        *lines, last = outcome.out.splitlines()
        named = ["0.png", "2.png", "4.png", "codec.avi", "text.mp4", "tiny.mp4"]  # the last cannot be written
        assert len(lines) == len(named)
        for line, name in zip(lines, named, strict=True):
            assert line.startswith("skipped: ")
            assert name in line
        assert last == f"{out}: results of 3 images; 6 problems, named above"
        assert files(out) == {
            f"{kind}/{i}.{s}" for i in (1, 3, 5) for kind, s in (("masks", "png"), ("overlays", "jpg"))
        }

    def test_nothing_that_can_be_read(self, detector: Path, tmp_path: Path):
        (tmp_path / "a.png").write_text("no image")
        outcome = segkd("predict", detector, tmp_path / "a.png", "--out", tmp_path / "out")
        assert (outcome.status, outcome.err) == (1, "")
        assert outcome.out.splitlines()[1] == f"{tmp_path / 'out'}: results of 0 images; 1 problem, named above"
        assert json.loads((tmp_path / "out/detections.json").read_text()) == {}

    def test_an_image_of_more_pixels_than_are_allowed(self, run: Path, photos: Path, tmp_path: Path):
        command = ("predict", run, photos / "b/1.png", "--max-pixels")
        outcome = segkd(*command, "1e3", "--out", tmp_path / "out")
        assert (outcome.status, outcome.err) == (1, "")
        assert "more than data.max_pixels=1000 allows (in predict --max-pixels)" in outcome.out
        assert segkd(*command, 2_000_000_000, "--out", tmp_path / "out").status == 0
        refused(segkd(*command, "0", "--out", tmp_path / "other"), "whole number above 0", "'0'")

    def test_what_is_converted_is_said_once(self, run: Path, tmp_path: Path):
        for name in ("a.tif", "b.tif"):
            Image.new("RGBA", (60, 40)).save(tmp_path / name)
        outcome = segkd("predict", run, tmp_path, "--out", tmp_path / "out")
        assert (outcome.status, outcome.err) == (0, "")
        said = "2 images have an alpha channel, left out: transparent pixels count as opaque; the first is"
        assert outcome.out.splitlines()[0] == f"{said} {tmp_path}/a.tif"

    def test_an_image_that_the_model_cannot_take(self, detector: Path, tmp_path: Path):
        """Of which nothing is left when its longer side is resized."""
        for name, size in (("1.png", (70, 50)), ("2.png", (3000, 1)), ("3.png", (3000, 1)), ("4.png", (70, 50))):
            Image.new("RGB", size).save(tmp_path / name)
        outcome = segkd("predict", detector, tmp_path, "--out", tmp_path / "out")
        assert (outcome.status, outcome.err) == (1, "")
        assert outcome.out.count("skipped: the model cannot take image") == 2
        assert list(json.loads((tmp_path / "out/detections.json").read_text())) == ["1.png", "4.png"]

    def test_a_video_that_the_model_cannot_take(self, detector: Path, tmp_path: Path):
        clip(tmp_path / "1.avi", 3, size=(4, 1500))
        clip(tmp_path / "2.avi", 3)
        outcome = segkd("predict", detector, tmp_path, "--out", tmp_path / "out", "--batch-size", 2)
        assert (outcome.status, outcome.err) == (1, "")
        assert f"skipped: the model cannot take video {tmp_path / '1.avi'}: " in outcome.out
        assert outcome.out.endswith(": results of 0 images and 1 video (3 frames); 1 problem, named above\n")
        assert files(tmp_path / "out") == {"detections.json", "overlays/2.mp4"}

    def test_a_scale_that_is_too_large_for_memory(self, run: Path, photos: Path, tmp_path: Path):
        outcome = segkd("predict", run, photos / "b", "--out", tmp_path / "out", "--scales", 1e9)
        assert (outcome.status, outcome.err) == (1, "")
        assert outcome.out.count("skipped: the model cannot take image") == 2

    def test_a_video_that_ends_early_is_kept_and_named(self, run: Path, tmp_path: Path):
        video = clip(tmp_path / "cut.avi", 20, size=(64, 96))
        video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
        outcome = segkd("predict", run, video, "--out", tmp_path / "out")
        assert (outcome.status, outcome.err) == (1, "")
        count = len(frames(tmp_path / "out/overlays/cut.mp4"))
        assert 0 < count < 15
        assert f"ended early: video {video} after {count} of about 20 frames\n" in outcome.out
        assert len(files(tmp_path / "out/masks")) == count

    @pytest.mark.parametrize("taken", ["notes.txt", ".hidden", "masks/1.png"])
    def test_a_folder_that_holds_other_files(self, taken: str, run: Path, photos: Path, tmp_path: Path):
        (tmp_path / taken).parent.mkdir(exist_ok=True)
        (tmp_path / taken).write_text("mine")
        refused(segkd("predict", run, photos, "--out", tmp_path), f"{tmp_path} holds other files", "--out")
        assert files(tmp_path) == {taken}
        assert (tmp_path / taken).read_text() == "mine"

    def test_a_file_in_the_way(self, run: Path, photos: Path, tmp_path: Path):
        (tmp_path / "a").write_text("mine")
        refused(segkd("predict", run, photos, "--out", tmp_path / "a"), f"{tmp_path / 'a'} is a file")
        refused(segkd("predict", run, photos, "--out", tmp_path / "a/b"), "a/b cannot be written: Not a directory")
        assert (tmp_path / "a").read_text() == "mine"

    def test_no_student_and_no_input(self, run: Path, photos: Path, tmp_path: Path):
        out = ("--out", tmp_path / "out")
        refused(segkd("predict", tmp_path, photos, *out), f"{tmp_path} holds no model.safetensors")
        refused(segkd("predict", run, photos / "*.gif", *out), "*.gif' matches anything")
        refused(segkd("predict", run, tmp_path, *out), f"{tmp_path} holds no image or video")
        refused(segkd("predict", run, *out), "INPUT")
        refused(segkd("predict", run, photos), "--out")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("options", "texts"),
        [
            (["--score-threshold", 0.5], ["--score-threshold is for detectors"]),
            (["--window", 8], ["--window is for --sliding"]),
            (["--window", 8, "--stride", 4], ["--window and --stride are for --sliding"]),
            (["--sliding"], ["needs a window"]),
            (["--sliding", "--window", 8, "--stride", 9], ["stride <= window"]),
            (["--sliding", "--window", "8x8"], ["--window", "N or H,W", "'8x8'"]),
            (["--sliding", "--window", "1,2,3"], ["--window", "N or H,W"]),
            (["--sliding", "--window", 0], ["1 <= stride <= window"]),
            (["--scales", "1,a"], ["--scales", "0.75,1,1.25", "'1,a'"]),
            (["--scales", "1,0"], ["scales", "above 0"]),
            (["--scales", "nan"], ["scales", "above 0"]),
            (["--batch-size", 0], ["--batch-size"]),
            (["--alpha", 1.5], ["--alpha"]),
        ],
        ids=str,
    )
    def test_options_that_do_not_fit(self, options: list, texts: list[str], run: Path, photos: Path, tmp_path: Path):
        refused(segkd("predict", run, photos, "--out", tmp_path / "out", *options), *texts)
        assert not list(tmp_path.iterdir())

    def test_options_of_segmentation_for_a_detector(self, detector: Path, photos: Path, tmp_path: Path):
        arguments = ("predict", detector, photos, "--out", tmp_path / "out")
        for option in (["--sliding"], ["--flip"], ["--scales", "1,2"], ["--alpha", 0]):
            refused(segkd(*arguments, *option), f"{option[0]} is for segmentation, and {detector} is a detector")
        refused(segkd(*arguments, "--flip", "--sliding", "--window", 9), "--sliding and --window and --flip are for")
        assert not list(tmp_path.iterdir())


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "text"),
        [
            ({"batch_size": 0}, "batch_size: expected a whole number, at least 1, got 0"),
            ({"batch_size": -1}, "batch_size: expected a whole number, at least 1, got -1"),
            ({"batch_size": 2.5}, "batch_size: expected a whole number, at least 1, got 2.5"),
            ({"batch_size": True}, "batch_size: expected a whole number, at least 1, got true"),
            ({"alpha": 3}, "alpha: expected a number from 0 to 1, got 3"),
            ({"alpha": float("nan")}, "alpha: expected a number from 0 to 1, got .nan"),
            ({"score_threshold": "0.5"}, "score_threshold: expected a number from 0 to 1, got '0.5'"),
            ({"scales": 1}, "scales: expected one or more numbers above 0, as in [0.75, 1], got 1"),
            ({"scales": "0.5"}, "scales: expected one or more numbers above 0, as in [0.75, 1], got '0.5'"),
            ({"scales": ["0.5"]}, "scales: expected one or more numbers above 0, as in [0.75, 1], got ['0.5']"),
            ({"scales": []}, "scales: expected one or more numbers above 0, as in [0.75, 1], got []"),
            ({"max_pixels": None}, "max_pixels: expected a whole number, at least 1, got null"),
            ({"max_pixels": 0}, "max_pixels: expected a whole number, at least 1, got 0"),
            ({"max_pixels": float("inf")}, "max_pixels: expected a whole number, at least 1, got .inf"),
            (
                {"sliding": True, "window": "32"},
                "window: expected pixels, N or (height, width) in whole",
            ),
            (
                {"sliding": True, "window": (32, 32, 3)},
                "window: expected pixels, N or (height, width) in whole",
            ),
            ({"sliding": True, "window": 32, "stride": 2.5}, "stride: expected pixels, N or (height, width) in whole"),
            ({"inputs": []}, "inputs: expected at least one file, folder or pattern, got none"),
        ],
        ids=str,
    )
    def test_out_of_range(self, arguments: dict[str, Any], text: str, run: Path, photos: Path, tmp_path: Path):
        with pytest.raises(SegkdError) as raised:
            api.predict(run, **{"inputs": photos, "out": tmp_path / "out", "quiet": True, **arguments})
        assert str(raised.value).startswith(text)
        assert not list(tmp_path.iterdir())

    def test_numbers_of_numpy(self, run: Path, photos: Path, tmp_path: Path):
        options: dict[str, Any] = {"batch_size": np.int64(2), "alpha": np.float32(0.5), "scales": [np.float32(1)]}
        options |= {"max_pixels": 1e9, "sliding": True, "window": np.int64(48), "stride": [16, np.int32(32)]}
        assert api.predict(run, photos, tmp_path / "out", quiet=True, **options).images == 5


def test_a_name_that_the_terminal_cannot_show_or_reads_as_a_picture_is_printed_with_escapes(run: Path, tmp_path: Path):
    for name in (b"\xff.png", b":car:.png"):
        (tmp_path / os.fsdecode(name)).write_text("no image")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    summary = predict(run, [str(tmp_path)], tmp_path / "out", Console(file=stream, width=100))
    stream.flush()
    printed = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert len(summary.problems) == 2
    assert "/\\udcff.png" in printed
    assert "/:car:.png" in printed
