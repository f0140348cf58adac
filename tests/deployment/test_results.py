import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.deployment.inputs import Source
from segkd.deployment.results import BoxResults, MaskResults, save_picture
from segkd.detection.pictures import draw_boxes
from segkd.errors import SegkdError
from segkd.segmentation.pictures import overlay

COLORS = [[10, 20, 30], [200, 0, 0], [0, 0, 255]]
IMAGE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
PHOTO = Source(Path("/x/a/b.c.jpg"), Path("a/b.c.jpg"), Path("a/b.c"), is_video=False)
CLIP = Source(Path("/x/clip.mp4"), Path("clip.mp4"), Path("clip"), is_video=True)


INFO = {"classes": ["cell", "dot", "edge"], "colors": COLORS}
FOUND = {
    "boxes": np.array([[1.234, 2, 30.5, 39], [5, 6, 7, 8], [0, 0, 60, 40]], np.float32),
    "labels": np.array([3, 1, 2]),
    "scores": np.array([0.9, 0.3, 0.29], np.float32),
}


class TestMasks:
    MASK = (np.arange(40 * 60) % 3).reshape(40, 60).astype(np.uint8)

    def test_indices_are_classes_and_the_palette_their_colours(self, tmp_path: Path):
        results = MaskResults({"colors": COLORS}, tmp_path)
        results.add(PHOTO, None, IMAGE, self.MASK)
        results.add(CLIP, 12, IMAGE, self.MASK[::-1])
        results.close()
        assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")} == {
            "masks/a/b.c.png",
            "masks/clip/frame_000012.png",
        }
        with Image.open(tmp_path / "masks/a/b.c.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), self.MASK)
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.array(COLORS)[self.MASK])
            assert image.getpalette() == [10, 20, 30, 200, 0, 0, 0, 0, 255, *[255] * 3 * 253]
        with Image.open(tmp_path / "masks/clip/frame_000012.png") as image:
            np.testing.assert_array_equal(np.asarray(image), self.MASK[::-1])

    def test_the_ignore_index_is_white(self, tmp_path: Path):
        results = MaskResults({"colors": COLORS, "ignore_index": 1}, tmp_path)
        picture = results.add(PHOTO, None, IMAGE, self.MASK)
        with Image.open(tmp_path / "masks/a/b.c.png") as image:
            assert image.getpalette()[:9] == [10, 20, 30, 255, 255, 255, 0, 0, 255]
        np.testing.assert_array_equal(picture[self.MASK == 1], IMAGE[self.MASK == 1])

    @pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
    def test_overlay(self, alpha: float, tmp_path: Path):
        picture = MaskResults({"colors": COLORS}, tmp_path, alpha).add(PHOTO, None, IMAGE, self.MASK)
        np.testing.assert_array_equal(picture, overlay(IMAGE, self.MASK, COLORS, alpha))

    def test_a_student_without_colours(self, tmp_path: Path):
        with pytest.raises(SegkdError, match="records no colors"):
            MaskResults({"classes": ["a"]}, tmp_path)


class TestBoxes:
    def read(self, folder: Path) -> dict:
        return json.loads((folder / "detections.json").read_text())

    def test_the_file_and_the_picture_hold_what_is_sure_enough(self, tmp_path: Path):
        results = BoxResults(INFO, tmp_path / "out")
        picture = results.add(PHOTO, None, IMAGE, {**FOUND, "scores": np.array([0.9, 0.5, 0.29], np.float32)})
        results.close()
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.json"]
        assert self.read(tmp_path / "out") == {
            "a/b.c.jpg": {
                "width": 60,
                "height": 40,
                "boxes": [[1.23, 2, 30.5, 39], [5, 6, 7, 8]],
                "labels": ["edge", "cell"],
                "scores": [0.9, 0.5],
            }
        }
        boxes, labels = FOUND["boxes"][:2], FOUND["labels"][:2]
        expected = draw_boxes(IMAGE, boxes, labels, INFO["classes"], COLORS, [0.9, 0.5], tile=60)
        np.testing.assert_array_equal(picture, expected)
        assert picture.shape == IMAGE.shape

    @pytest.mark.parametrize(("threshold", "count"), [(0.0, 3), (0.5, 1), (1.0, 0)])
    def test_threshold(self, threshold: float, count: int, tmp_path: Path):
        results = BoxResults(INFO, tmp_path, threshold)
        for frame in (1, 2):
            results.add(CLIP, frame, IMAGE, FOUND)
        results.close()
        read = self.read(tmp_path)
        assert list(read) == ["clip.mp4/frame_000001", "clip.mp4/frame_000002"]
        assert all(len(image[key]) == count for image in read.values() for key in ("boxes", "labels", "scores"))

    def test_of_nothing(self, tmp_path: Path):
        BoxResults(INFO, tmp_path).close()
        assert self.read(tmp_path) == {}

    @pytest.mark.parametrize("missing", ["classes", "colors"])
    def test_a_student_without(self, missing: str, tmp_path: Path):
        info = {key: value for key, value in INFO.items() if key != missing}
        with pytest.raises(SegkdError, match=f"records no {missing}"):
            BoxResults(info, tmp_path)


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path: Path):
    path = tmp_path / "a.jpg"
    save_picture(Image.new("RGB", (4, 4)), path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="RGBA"):
        save_picture(Image.new("RGBA", (4, 4)), path)
    assert path.read_bytes() == before
