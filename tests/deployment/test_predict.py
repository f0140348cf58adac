"""`segkd predict`, run as from the command line, on students with random weights."""

import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from experiments import Outcome, refused, segkd
from PIL import Image
from rich.console import Console

from segkd.deployment.predict import predict
from segkd.detection.models import build_detector
from segkd.detection.student import save_student as save_detector
from segkd.segmentation.models import build_model
from segkd.segmentation.pictures import overlay
from segkd.segmentation.student import save_student
from segkd.students import load_student

COLORS = [[10, 20, 30], [200, 0, 0], [0, 0, 255], [0, 200, 0]]
CLASSES = ["road", "car", "tree", "sky"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a segmentation student that resizes to 64 x 96."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    info = {"classes": CLASSES, "colors": COLORS, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "size": [64, 96]}
    save_student(build_model("Unet", "tu-mobilenetv3_small_050", 4), folder / "student", info=info)
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a detector that finds something everywhere."""
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    options = {"out_channels": 64, "score_thresh": 0.0, "detections_per_img": 5}
    model = build_detector("retinanet", "mobilenet_v3_small", 4, min_size=64, max_size=96, options=options)
    # As built, all scores are 0.01 but for the last bits: which five are best would hang on the batch size.
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=5e3)
    save_detector(model, folder / "student", info={"classes": CLASSES, "colors": COLORS})
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of images with the same names and of several sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for index, name in enumerate(("a/1.png", "a/2.png", "a/3.jpg", "b/1.png", "b/c/1.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(index, (50, 70) if index % 2 else (40, 30))).save(path)
    return folder


def picture(seed: int, size: tuple[int, int]) -> np.ndarray:
    """Large blocks of colours."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return cv2.resize(blocks, size[::-1], interpolation=cv2.INTER_NEAREST)


def clip(path: Path, count: int, codec: str = "MJPG", size: tuple[int, int] = (48, 64)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 12.5, size[::-1])
    assert writer.isOpened()
    for index in range(count):
        writer.write(picture(index, size))
    writer.release()
    return path


def frames(path: Path) -> list[np.ndarray]:
    capture, read = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        read.append(cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB))
    return read


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


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
