from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.data.check import check_dataset
from segkd.data.description import read_spec
from segkd.data.formats.yolo import Yolo
from segkd.errors import SegkdError

SIZE = (64, 96)
LINES = ("1 0.5 0.5 0.25 0.5", "0 0.25 0.25 0.75 0.25 0.75 0.5", "")


def spec_of(root: Path, **more: object) -> Yolo:
    splits = {"train": {"images": "images/*.jpg", "annotations": "labels/*.txt", **more}}
    colors = [{"name": name, "color": [index, 0, 0]} for index, name in enumerate(("cat", "dog"))]
    return Yolo.model_validate({"name": "mine", "root": root, "format": "yolo", "splits": splits, "classes": colors})


@pytest.fixture
def root(tmp_path):
    """Two images with boxes in their files, one with an empty file, one without a file."""
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for index in range(4):
        Image.fromarray(np.full((*SIZE, 3), 40 * index, np.uint8)).save(tmp_path / f"images/{index}.jpg")
    for index, line in enumerate(LINES):
        (tmp_path / f"labels/{index}.txt").write_text(line)
    return tmp_path


def test_boxes_are_shares_of_the_image_about_their_centre_and_segments_their_corners(root):
    samples = spec_of(root).samples("train")
    assert [samples.label(index).boxes.tolist() for index in range(3)] == [[[36, 16, 60, 48]], [[24, 16, 72, 32]], []]
    assert [samples.label(index).labels.tolist() for index in range(3)] == [[2], [1], []]
    assert samples.read(0).image.shape == (*SIZE, 3)


def test_an_image_without_a_file_is_background_where_the_split_says_so(root):
    samples = spec_of(root).samples("train")
    assert len(samples) == 3
    assert samples.remarks[0] == (
        f"mine train: images without an annotation, left out: 1, such as {root}/images/3.jpg, whose annotation would "
        f"be {root}/labels/3.txt"
    )
    samples = spec_of(root, background=True).samples("train")
    assert len(samples) == 4
    assert len(samples.label(3).labels) == 0
    assert "4 images, 2 without boxes" in str(check_dataset(spec_of(root, background=True)))


def test_a_list_says_which_images_belong(root):
    (root / "list.txt").write_text("1\n3\n")
    with pytest.raises(SegkdError, match=rf"^no annotation {root}/labels/3\.txt of image {root}/images/3\.jpg$"):
        spec_of(root, list="list.txt").samples("train")
    assert len(spec_of(root, list="list.txt", background=True).samples("train")) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 1.2 0.5", "expected shares of the image from 0 to 1, got '0 0.5 0.5 1.2 0.5'"),
        ("0 -0.1 0.5 0.2 0.5", "expected shares of the image from 0 to 1"),
        ("0 nan 0.5 0.2 0.5", "expected shares of the image from 0 to 1"),
        ("2 0.5 0.5 0.2 0.5", "expected a class from 0 to 1"),
        ("0.5 0.5 0.5 0.2 0.5", "expected a class from 0 to 1"),
        ("cat 0.5 0.5 0.2 0.5", "expected numbers: class cx cy w h, or class x1 y1 x2 y2 ..."),
        ("0 0.5 0.5 0.2", "expected class cx cy w h, or class and at least three x y"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "expected class cx cy w h, or class and at least three x y"),
        ("inf 0.5 0.5 0.2 0.5", "expected a class from 0 to 1"),
    ],
)
def test_what_is_no_box_is_named_with_file_and_line(root, line, message):
    (root / "labels/1.txt").write_text(f"0 0.5 0.5 0.5 0.5\n\n{line}\n")
    with pytest.raises(SegkdError) as error:
        spec_of(root).samples("train")
    assert str(error.value).startswith(f"{root}/labels/1.txt: line 3: {message}")
    assert len(spec_of(root).scan("train")) == 2  # the others are read


def test_a_file_that_is_no_text_is_named(root):
    (root / "labels/0.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SegkdError, match=rf"^{root}/labels/0\.txt: cannot be read as text: "):
        spec_of(root).samples("train")


def test_the_size_is_that_of_the_upright_image(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "images/0.jpg", exif=exif)
    sample = spec_of(root).samples("train").read(0)
    assert sample.image.shape == (96, 64, 3)
    assert sample.label.boxes.tolist() == [[24, 24, 40, 72]]


def test_a_description_is_read_from_its_file(root):
    path = root / "mine.yaml"
    path.write_text(
        "name: mine\nroot: .\nformat: yolo\nclasses: [{name: cat, color: [1, 2, 3]}, {name: dog, color: [3, 2, 1]}]\n"
        'splits: {train: {images: "images/*.jpg", annotations: "labels/*.txt", background: true}}\n'
    )
    assert isinstance(read_spec(path), Yolo)
    assert check_dataset(read_spec(path)).problems == []
