import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segkd.data.check import check_dataset, class_shares
from segkd.data.dataset import SeededDataset
from segkd.data.description import read_spec
from segkd.data.transforms import eval_transform
from segkd.errors import SegkdError

SIZE = (40, 60)
GROUND, CAT, DOG = {"id": 9, "name": "ground"}, {"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}


def polygon(left: int, top: int, right: int, bottom: int) -> list[list[int]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def thing(category: dict, box: tuple[int, int, int, int], crowd: int = 0, shape: object = None) -> dict:
    left, top, right, bottom = box
    bbox = [left, top, right - left, bottom - top]
    return {
        "image_id": 1,
        "category_id": category["id"],
        "bbox": bbox,
        "segmentation": shape or polygon(*box),
        "iscrowd": crowd,
    }


def runs(mask: np.ndarray) -> dict:
    """COCO's plain run lengths of a mask, column by column."""
    flat = np.concatenate([[0], mask.T.ravel(), [1 - mask.T.ravel()[-1]]])
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff([0, *edges, mask.size] if edges[-1] != mask.size else [0, *edges])
    return {"size": list(mask.shape), "counts": counts.tolist()}


def make(root: Path, *things: dict, **more: object) -> Path:
    (root / "images").mkdir()
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "images/a.png")
    image = {"id": 1, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}
    content = {
        "images": [image],
        "annotations": [{"id": k, **item} for k, item in enumerate(things)],
        "categories": [GROUND, CAT, DOG],
    }
    (root / "a.json").write_text(json.dumps(content))
    description = {
        "name": "mine", "root": ".", "format": "coco_masks",
        "splits": {"train": {"images": "images", "annotations": "a.json"}},
        "classes": [{"name": name, "color": [k, 0, 0]} for k, name in enumerate(("dog", "cat"))],
        "ignore": ["ground"], **more,
    }  # fmt: skip
    path = root / "mine.yaml"
    path.write_text(json.dumps(description))
    return path


def mask_of(path: Path) -> np.ndarray:
    return read_spec(path).samples("train").read(0).label


def test_classes_are_matched_by_name_and_the_rest_is_left_out(tmp_path):
    mask = mask_of(make(tmp_path, thing(CAT, (5, 5, 20, 20)), thing(DOG, (30, 10, 50, 30))))
    expected = np.full(SIZE, 255)
    expected[5:20, 5:20], expected[10:30, 30:50] = 1, 0
    np.testing.assert_array_equal(mask, expected)


def test_the_rest_may_be_a_class(tmp_path):
    mask = mask_of(make(tmp_path, thing(CAT, (5, 5, 20, 20)), thing(GROUND, (30, 10, 50, 30)), rest="dog"))
    assert np.bincount(mask.ravel()).tolist() == [SIZE[0] * SIZE[1] - 225, 225]


def test_the_rest_needs_no_box(tmp_path):
    spec = read_spec(make(tmp_path, thing(CAT, (5, 5, 20, 20)), rest="dog"))
    assert spec.samples("train").remarks == []


@pytest.mark.parametrize("first_is_small", [True, False])
def test_smaller_objects_lie_on_top_in_whatever_order_the_file_has_them(tmp_path, first_is_small):
    both = [thing(CAT, (10, 10, 14, 14)), thing(DOG, (5, 5, 30, 30))]
    mask = mask_of(make(tmp_path, *(both if first_is_small else both[::-1])))
    assert (mask[10:14, 10:14] == 1).all()
    assert (mask == 1).sum() == 16


def test_of_two_of_one_size_the_later_lies_on_top(tmp_path):
    mask = mask_of(make(tmp_path, thing(CAT, (5, 5, 15, 15)), thing(DOG, (10, 5, 20, 15))))
    assert (mask[5:15, 10:20] == 0).all()


def test_a_crowd_counts_for_nothing_but_where_an_object_is_outlined_in_it(tmp_path):
    crowd = np.zeros(SIZE, np.uint8)
    crowd[:, :30] = 1
    things = thing(CAT, (5, 5, 15, 15)), thing(DOG, (0, 0, 30, 40), crowd=1, shape=runs(crowd))
    mask = mask_of(make(tmp_path, *things, rest="dog"))
    assert (mask[:, 30:] == 0).all()
    assert (mask[5:15, 5:15] == 1).all()
    assert (mask[:, :30] == 255).sum() == 40 * 30 - 100


def test_run_lengths_are_drawn(tmp_path):
    shape = np.zeros(SIZE, np.uint8)
    shape[3:9, 50:] = shape[20, 2:5] = 1
    mask = mask_of(make(tmp_path, thing(CAT, (2, 3, 60, 21), shape=runs(shape))))
    np.testing.assert_array_equal(mask == 1, shape == 1)


def test_the_check_counts_pixels_and_class_shares_are_of_those_that_have_one(tmp_path):
    spec = read_spec(make(tmp_path, thing(CAT, (0, 0, 30, 20)), thing(DOG, (30, 0, 40, 20)), thing(CAT, (1, 1, 1, 9))))
    report = check_dataset(spec)
    assert report.problems == []
    assert report.splits[0].counts == pytest.approx({"dog": 100 / 12, "cat": 25, "(ignored)": 200 / 3})
    assert [len(lines) for lines in report.splits[0].dropped.values()] == [1]
    assert class_shares(SeededDataset(spec, "train", eval_transform())) == pytest.approx([0.25, 0.75])


def test_a_mask_turns_with_its_image(tmp_path):
    path = make(tmp_path, thing(CAT, (0, 0, 30, 20)), thing(DOG, (30, 0, 40, 20)))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "images/a.png", exif=exif)
    image, mask = read_spec(path).samples("train").read(0)
    assert image.shape[:2] == mask.shape == SIZE[::-1]
    assert (mask == 1).sum() == 600


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"rest": "cta"}, r"rest: 'cta' is none of the classes dog, cat"),
        ({"ignore": ["cat"]}, r"class 'cat' stands both in classes and in ignore"),
        ({"splits": {"train": {"images": "*.png", "annotations": "a.json"}}}, r"must hold no \*: a folder and a JSON"),
        ({"splits": {"train": {"images": "x", "annotations": "a.json", "list": "l"}}}, "lists images in its JSON file"),
        ({"ignore_index": 1}, "ignore_index 1 is also a class id"),
        ({"label_map": {0: 1}}, "unknown key 'label_map'"),
    ],
)
def test_a_slip_in_the_yaml_is_one_line(tmp_path, more, message):
    path = make(tmp_path, **more)
    with pytest.raises(SegkdError, match=message) as error:
        read_spec(path)
    assert str(error.value).startswith(f"{path}: ")


def test_an_object_that_cannot_be_drawn_is_named(tmp_path):
    path = make(tmp_path, {**thing(CAT, (0, 0, 9, 9)), "segmentation": "x"})
    (problem,) = check_dataset(read_spec(path)).splits[0].problems
    assert (
        problem == f"{tmp_path}/a.json: annotation 0 has no segmentation as polygons or run lengths, which masks need"
    )
