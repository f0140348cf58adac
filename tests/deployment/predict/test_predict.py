"""`segkd predict`, run as from the command line, on students with random weights."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import CLASSES, COLORS, clip, files, frames, picture
from experiments import Outcome, segkd
from PIL import Image
from rich.console import Console

from segkd.deployment.predict import predict
from segkd.models.saved import load_student
from segkd.segmentation.pictures import overlay


def mask(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def done(outcome: Outcome) -> Outcome:
    assert (outcome.status, outcome.err) == (0, "")
    return outcome


class TestSegmentation:
    def test_masks_and_overlays_lie_as_the_images_do(self, run: Path, photos: Path, tmp_path: Path):
        outcome = done(segkd("predict", run, photos, "--out", tmp_path / "out"))
        assert outcome.out == f"{tmp_path / 'out'}: results of 5 images\n"
        student, names = load_student(run), ("a/1", "a/2", "a/3", "b/1", "b/c/1")
        kinds = (("masks", "png"), ("overlays", "jpg"))
        assert files(tmp_path / "out") == {f"{kind}/{name}.{suffix}" for name in names for kind, suffix in kinds}
        for name in names:
            image = pixels(next(photos.glob(f"{name}.*")))
            expected = student.predict(image)
            assert len(np.unique(expected)) > 1
            np.testing.assert_array_equal(mask(tmp_path / f"out/masks/{name}.png"), expected)
            shown = pixels(tmp_path / f"out/overlays/{name}.jpg").astype(int)
            assert np.abs(shown - overlay(image, expected, COLORS)).mean() < 8  # what JPEG loses of a noisy mask
            assert np.abs(shown - image).mean() > 20

    def test_the_batch_size_changes_nothing(self, run: Path, photos: Path, tmp_path: Path):
        for size in (1, 3):
            done(segkd("predict", run / "student", photos, "--out", tmp_path / str(size), "--batch-size", size))
        assert files(tmp_path / "1") == files(tmp_path / "3")
        for name in files(tmp_path / "1" / "masks"):
            np.testing.assert_array_equal(mask(tmp_path / "1/masks" / name), mask(tmp_path / "3/masks" / name))

    @pytest.mark.parametrize(
        ("options", "same"),
        [
            (["--sliding", "--window", "48"], {"mode": "sliding", "window": 48}),
            (
                ["--sliding", "--window", "32,64", "--stride", "16,32"],
                {"mode": "sliding", "window": (32, 64), "stride": (16, 32)},
            ),
            (["--flip"], {"flip": True}),
            (["--scales", "0.5,1,2"], {"scales": (0.5, 1, 2)}),
        ],
    )
    def test_options_are_those_of_the_student(
        self, options: list[str], same: dict, run: Path, photos: Path, tmp_path: Path
    ):
        image, student = photos / "b/1.png", load_student(run)
        done(segkd("predict", run, image, "--out", tmp_path / "out", *options))
        found = mask(tmp_path / "out/masks/1.png")
        np.testing.assert_array_equal(found, student.predict(pixels(image), **same))
        assert not np.array_equal(found, student.predict(pixels(image)))

    def test_an_overlay_too_long_for_a_jpeg_is_a_png(self, run: Path, tmp_path: Path):
        Image.fromarray(picture(0, (4, 65501))).save(tmp_path / "long.png")
        done(segkd("predict", run, tmp_path / "long.png", "--out", tmp_path / "out"))
        assert files(tmp_path / "out") == {"masks/long.png", "overlays/long.png"}
        assert pixels(tmp_path / "out/overlays/long.png").shape == (4, 65501, 3)

    def test_an_image_that_is_read_all_the_same_warns_of_nothing(
        self, run: Path, photos: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ):
        with Image.open(photos / "b/1.png") as image:
            image.quantize(8).save(tmp_path / "1.png", transparency=bytes(8))
        done(segkd("predict", run, tmp_path / "1.png", "--out", tmp_path / "out"))
        assert [str(warning.message) for warning in recwarn if "transparency" in str(warning.message).lower()] == []

    def test_all_is_upright(self, run: Path, tmp_path: Path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(picture(0, (40, 30))).save(tmp_path / "side.png", exif=exif)
        done(segkd("predict", run, tmp_path / "side.png", "--out", tmp_path / "out"))
        found = mask(tmp_path / "out/masks/side.png")
        np.testing.assert_array_equal(found, load_student(run).predict(np.rot90(picture(0, (40, 30)), -1)))
        assert pixels(tmp_path / "out/overlays/side.jpg").shape == (30, 40, 3)

    def test_alpha(self, run: Path, photos: Path, tmp_path: Path):
        done(segkd("predict", run, photos / "b/1.png", "--out", tmp_path / "out", "--alpha", 0))
        shown = pixels(tmp_path / "out/overlays/1.jpg").astype(int)
        assert np.abs(shown - pixels(photos / "b/1.png")).mean() < 3


class TestDetection:
    def test_boxes_as_json_and_drawn(self, detector: Path, photos: Path, tmp_path: Path):
        arguments = ("predict", detector, photos, "--score-threshold", 0, "--batch-size", 2)
        outcome = done(segkd(*arguments, "--out", tmp_path / "out"))
        assert outcome.out == f"{tmp_path / 'out'}: results of 5 images\n"
        overlays = {f"overlays/{name}.jpg" for name in ("a/1", "a/2", "a/3", "b/1", "b/c/1")}
        assert files(tmp_path / "out") == {"detections.json", *overlays}
        read, student = json.loads((tmp_path / "out/detections.json").read_text()), load_student(detector)
        assert list(read) == ["a/1.png", "a/2.png", "a/3.jpg", "b/1.png", "b/c/1.png"]
        for name, image in read.items():
            shown = pixels(photos / name)
            expected = student.predict(shown)
            assert (image["height"], image["width"]) == shown.shape[:2]
            assert len(image["boxes"]) == len(expected["boxes"]) > 0
            np.testing.assert_allclose(image["boxes"], expected["boxes"], atol=0.02)
            np.testing.assert_allclose(image["scores"], expected["scores"], atol=1e-4)
            assert image["labels"] == [CLASSES[label - 1] for label in expected["labels"]]
            drawn = pixels((tmp_path / "out/overlays" / name).with_suffix(".jpg"))
            assert drawn.shape == shown.shape
            assert np.abs(drawn.astype(int) - shown).mean() > 3

    def test_a_score_that_none_has(self, detector: Path, photos: Path, tmp_path: Path):
        done(segkd("predict", detector, photos / "b", "--score-threshold", 1, "--out", tmp_path))
        read = json.loads((tmp_path / "detections.json").read_text())
        assert [image["boxes"] for image in read.values()] == [[], []]
        shown = pixels(tmp_path / "overlays/1.jpg").astype(int)
        assert np.abs(shown - pixels(photos / "b/1.png")).mean() < 3


class TestVideo:
    def test_segmentation(self, run: Path, tmp_path: Path):
        folder, out = tmp_path / "in", tmp_path / "out"
        folder.mkdir()
        video = clip(folder / "drive.avi", 5)
        Image.fromarray(picture(0, (50, 70))).save(folder / "photo.png")
        outcome = done(segkd("predict", run, folder, "--out", out, "--batch-size", 2))
        assert outcome.out == f"{out}: results of 1 image and 1 video (5 frames)\n"
        names = [f"masks/drive/frame_{number:06d}.png" for number in range(1, 6)]
        assert files(out) == {*names, "masks/photo.png", "overlays/photo.jpg", "overlays/drive.mp4"}
        result = cv2.VideoCapture(str(out / "overlays/drive.mp4"))
        assert (result.get(cv2.CAP_PROP_FPS), result.get(cv2.CAP_PROP_FRAME_COUNT)) == (12.5, 5)
        student = load_student(run)
        for name, frame, shown in zip(names, frames(video), frames(out / "overlays/drive.mp4"), strict=True):
            np.testing.assert_array_equal(mask(out / name), student.predict(frame))
            assert np.abs(shown.astype(int) - overlay(frame, mask(out / name), COLORS)).mean() < 12

    def test_detection(self, detector: Path, tmp_path: Path):
        clip(tmp_path / "in.avi", 3)
        done(segkd("predict", detector, tmp_path / "in.avi", "--out", tmp_path / "out", "--score-threshold", 0))
        assert files(tmp_path / "out") == {"detections.json", "overlays/in.mp4"}
        read = json.loads((tmp_path / "out/detections.json").read_text())
        assert list(read) == [f"in.avi/frame_00000{number}" for number in (1, 2, 3)]
        student = load_student(detector)
        for image, frame in zip(read.values(), frames(tmp_path / "in.avi"), strict=True):
            assert (image["height"], image["width"]) == (48, 64)
            assert len(image["boxes"]) > 0
            np.testing.assert_allclose(image["boxes"], student.predict(frame)["boxes"], atol=0.02)
        assert len(frames(tmp_path / "out/overlays/in.mp4")) == 3


def test_a_terminal_shows_a_bar_and_the_problems(run: Path, photos: Path, tmp_path: Path):
    (tmp_path / "broken.png").write_text("no image")
    clip(tmp_path / "drive.avi", 20, size=(64, 96))
    data = (tmp_path / "drive.avi").read_bytes()
    (tmp_path / "drive.avi").write_bytes(data[: len(data) // 2])
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100)
    summary = predict(run, [str(photos / "a"), str(tmp_path)], tmp_path / "out", console)
    assert (summary.images, summary.videos, len(summary.problems)) == (3, 1, 2)
    end = 4 + summary.frames  # the images, the broken one among them, and the frames there are
    assert f"{end}/{end}" in text.getvalue()
    assert all(problem in text.getvalue() for problem in summary.problems)
