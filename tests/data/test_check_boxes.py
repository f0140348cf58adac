import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_coco, make_voc_detection, write_voc

from segkd.data import check
from segkd.data.boxes import BoxSpec
from segkd.data.check import check_dataset
from segkd.data.description import read_spec
from segkd.data.transforms import eval_transform, train_transform
from segkd.detection.pictures import draw_boxes
from segkd.errors import SegkdError

SIZE = (64, 96)


@pytest.mark.parametrize(("make", "absent"), [(make_coco, []), (make_voc_detection, ["test"])])
def test_a_sound_data_set_has_no_problems(make, absent, tmp_path):
    report = check_dataset(read_spec(make(tmp_path), BoxSpec))
    assert report.problems == []
    assert [part.split for part in report.splits if part.absent] == absent
    train = report.splits[0]
    assert (train.images, train.sizes, train.dropped) == (3, {SIZE: 3}, {})
    flagged = {name: count for name, count in train.counts.items() if name.startswith("(")}
    assert flagged == ({"(crowd)": 1} if make is make_coco else {"(difficult)": 2})
    assert sum(train.counts.values()) - sum(flagged.values()) == 6 + flagged.get("(crowd)", 0)
    assert f"train: 3 images, 1 without boxes; width x height {SIZE[1]}x{SIZE[0]} (3)" in str(report)
    assert str(report).endswith("  0 problem(s)")


def test_boxes_are_counted_class_by_class(tmp_path):
    spec = read_spec(make_voc_detection(tmp_path), BoxSpec)
    objects = [("cat", (1, 1, 9, 9), False), ("cat", (1, 1, 9, 9), True), ("cow", (1, 1, 9, 9), False)]
    write_voc(tmp_path / "Annotations/2008_000001.xml", SIZE, objects)
    write_voc(tmp_path / "Annotations/2008_000000.xml", SIZE, [])
    val = check_dataset(spec).splits[1]
    assert {name: count for name, count in val.counts.items() if count} == {"cat": 2, "cow": 1, "(difficult)": 1}
    assert list(val.counts) == [*spec.class_names, "(difficult)"]
    assert val.heading == "2 images, 1 without boxes"


def test_what_is_ignored_and_what_stands_there_twice_is_said(tmp_path):
    spec = read_spec(make_voc_detection(tmp_path), BoxSpec)
    spec = spec.model_copy(update={"ignore": ["dragon", "cta"]})
    twice = [("cat", (1, 1, 9, 9), False)] * 2
    write_voc(tmp_path / "Annotations/2008_000000.xml", SIZE, [("dragon", (1, 1, 9, 9), False), *twice])
    report = check_dataset(spec)
    assert report.problems == []
    val = report.splits[1].lines()
    assert "    left out, class 'dragon', which is ignored: 1" in val
    image = tmp_path / "JPEGImages/2008_000000.jpg"
    assert val[-2:] == [
        "    voc_detection val: ignore names the class 'cta', which the annotations do not have; did you mean 'cat'?",
        f"    voc_detection val: boxes with the class and corners of another, which count too: 1, such as [0, 0, 9, 9] "
        f"of {image}",
    ]


def test_every_problem_is_one_line_with_its_path(tmp_path):
    spec = read_spec(make_voc_detection(tmp_path, train=6), BoxSpec)
    images = [tmp_path / f"JPEGImages/2007_{index:06d}.jpg" for index in range(6)]
    files = [tmp_path / f"Annotations/2007_{index:06d}.xml" for index in range(6)]
    files[0].unlink()
    files[1].write_text("<annotation>")
    write_voc(files[2], SIZE, [("cats", (1, 1, 9, 9), False)])
    images[3].unlink()
    images[4].write_bytes(images[4].read_bytes()[:-300])
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(images[5])
    report = check_dataset(spec)
    expected = [
        (files[0], "no annotation"),
        (files[1], "cannot be read as XML"),
        (files[2], "class 'cats'"),
        (images[3], "no image"),
        (images[4], "cannot read image"),
        (images[5], "is 20x10, but its annotation says 96x64"),
    ]
    train = report.splits[0]
    assert len(train.problems) == len(expected)
    for problem, (path, text) in zip(train.problems, expected, strict=True):
        assert str(path) in problem
        assert text in problem
        assert "\n" not in problem
        assert problem in str(report)


def test_a_broken_file_of_coco_is_a_problem_and_the_other_split_is_still_read(tmp_path):
    spec = read_spec(make_coco(tmp_path), BoxSpec)
    path = tmp_path / "annotations/instances_train2017.json"
    path.write_text("{")
    report = check_dataset(spec)
    (problem,) = report.problems
    assert problem.startswith(f"{path}: cannot be read as JSON")
    assert [part.images for part in report.splits] == [0, 2]


def test_boxes_left_out_are_told_by_reason_and_are_no_problem(tmp_path):
    spec = read_spec(make_voc_detection(tmp_path), BoxSpec)
    specks = [("cat", (9, 9, 9, 9 + k), False) for k in range(7)]
    write_voc(tmp_path / "Annotations/2007_000000.xml", SIZE, [*specks, ("cat", (9, 1, 2, 9), False)])
    report = check_dataset(spec)
    assert {reason: len(lines) for reason, lines in report.splits[0].dropped.items()} == {"zero area": 7, "inverted": 1}
    assert report.problems == []
    image = tmp_path / "JPEGImages/2007_000000.jpg"
    for line in (
        "left out, zero area: 7",
        f"{image}: box [9, 9, 9, 9]",
        "... and 2 more",
        f"{image}: box [9, 1, 2, 9]",
    ):
        assert line in str(report)


def test_a_missing_root_stops_the_check(tmp_path):
    with pytest.raises(SegkdError, match="no folder"):
        check_dataset(read_spec("coco", BoxSpec), tmp_path / "nowhere")


def contact_sheet(spec, split, transform, **options):
    def paint(image, objects):
        return draw_boxes(image, objects.boxes, objects.labels, spec.class_names, spec.colors)

    return check.contact_sheet(spec, split, transform, paint, **options)


@pytest.mark.parametrize("make", [make_coco, make_voc_detection])
def test_contact_sheet_shows_boxes_before_and_after(make, tmp_path):
    spec = read_spec(make(tmp_path), BoxSpec)
    transform = train_transform(crop=(32, 32), scale=(0.5, 1.0))
    sheet = contact_sheet(spec, "train", transform, count=2, seed=1)
    assert sheet.tobytes() == contact_sheet(spec, "train", transform, count=2, seed=1).tobytes()
    taller = contact_sheet(spec, "train", eval_transform((32, 32)), count=9, seed=1)
    assert taller.width == sheet.width
    assert taller.height > sheet.height
    painted = {color for _, color in sheet.getcolors(1 << 24)}
    assert set(spec.colors) <= painted
    with pytest.raises(SegkdError, match="count=0"):
        contact_sheet(spec, "train", eval_transform(), count=0)


def test_unaugmented_both_columns_of_a_contact_sheet_are_the_same(tmp_path):
    sheet = np.asarray(contact_sheet(read_spec(make_coco(tmp_path), BoxSpec), "train", eval_transform(), count=3))
    rows = 3 * round(640 * SIZE[0] / SIZE[1])
    np.testing.assert_array_equal(sheet[48 : 48 + rows, 8:648], sheet[48 : 48 + rows, 656:1296])


REAL = Path(os.environ.get("SEGKD_DATA", "")) / "bccd"


@pytest.mark.skipif(not (os.environ.get("SEGKD_DATA") and REAL.is_dir()), reason="needs bccd under SEGKD_DATA")
def test_real_bccd_is_sound_but_for_two_boxes_without_area():
    report = check_dataset(read_spec("bccd", BoxSpec))
    assert report.problems == []
    train, val, test = report.splits
    assert (train.heading, train.sizes) == ("205 images, 0 without boxes", {(480, 640): 205})
    assert (val.heading, val.sizes) == ("87 images, 0 without boxes", {(480, 640): 87})
    assert test.absent
    assert train.counts == {"RBC": 2381, "WBC": 214, "Platelets": 209}
    assert val.counts == {"RBC": 967, "WBC": 87, "Platelets": 83}
    for part, name in ((train, "BloodImage_00343"), (val, "BloodImage_00338")):
        ((reason, (line,)),) = part.dropped.items()
        assert reason == "zero area"
        assert name in line
        assert line in str(report)
