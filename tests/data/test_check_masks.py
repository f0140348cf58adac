import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_camvid, make_cityscapes, make_streets, make_voc

from segkd.data import check
from segkd.data.check import check_dataset
from segkd.data.description import read_spec
from segkd.data.masks import MaskSpec
from segkd.data.transforms import eval_transform, train_transform
from segkd.errors import SegkdError
from segkd.segmentation.pictures import overlay


def save(path, array):
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("make", [make_cityscapes, make_voc, make_camvid, make_streets])
def test_a_sound_data_set_has_no_problems(make, tmp_path):
    report = check_dataset(read_spec(make(tmp_path), MaskSpec))
    assert report.problems == []
    for split in report.splits:
        if split.absent:
            assert split.split == "test"
            continue
        assert split.images == sum(split.sizes.values()) > 0
        assert set(split.sizes) == {(64, 96)}
        assert sum(split.counts.values()) == pytest.approx(100)
    assert "0 problem(s)" in str(report)


def test_images_that_a_tag_turns_are_counted(tmp_path):
    spec = read_spec(make_camvid(tmp_path), MaskSpec)
    exif = Image.Exif()
    exif[0x0112] = 6
    for pair in spec.samples("train").pairs[:2]:
        with Image.open(pair.image) as image:
            image.save(pair.image, exif=exif)
    with Image.open(pair.mask) as mask:  # of the second, as its image is seen
        mask.resize((64, 96), Image.Resampling.NEAREST).save(pair.mask)
    report = check_dataset(spec)
    assert report.problems == []
    assert report.splits[0].sizes == {(64, 96): 1, (96, 64): 2}
    assert str(report).count("turned upright by their orientation tag: 2 images, and the masks of 1 with them") == 1


def test_shares_are_those_of_the_pixels(tmp_path):
    spec = read_spec(make_camvid(tmp_path, size=(64, 96)), MaskSpec)
    train = check_dataset(spec).splits[0]
    assert train.counts == pytest.approx(dict.fromkeys([*spec.class_names, "(ignored)"], 100 / 12))


def test_every_problem_is_one_line_with_its_path(tmp_path):
    spec = read_spec(make_camvid(tmp_path, train=6), MaskSpec)
    pairs = spec.samples("train").pairs
    pairs[0].mask.unlink()
    pairs[1].image.write_bytes(pairs[1].image.read_bytes()[:100])
    pairs[1].mask.write_bytes(b"")
    save(pairs[2].mask, np.full((64, 96), 77, dtype=np.uint8))
    save(pairs[3].mask, np.zeros((10, 10), dtype=np.uint8))
    save(pairs[4].mask, np.zeros((64, 96, 3), dtype=np.uint8))
    report = check_dataset(spec)
    expected = [
        (pairs[0].mask, "has no mask"),
        (pairs[1].image, "cannot read image"),
        (pairs[1].mask, "cannot read mask"),
        (pairs[2].mask, "raw id 77"),
        (pairs[3].mask, "10x10"),
        (pairs[4].mask, "6144 pixels have the colour [0, 0, 0]"),
    ]
    assert len(report.problems) == len(expected)
    for problem, (path, text) in zip(report.problems, expected, strict=True):
        assert str(path) in problem
        assert text in problem
        assert "\n" not in problem
        assert problem in str(report)
    assert report.splits[1].problems == []


def test_an_empty_split_is_a_problem_unless_it_is_optional(tmp_path):
    spec = read_spec(make_camvid(tmp_path, val=0), MaskSpec)
    report = check_dataset(spec)
    assert [split.absent for split in report.splits] == [False, False, True]
    (problem,) = report.problems
    assert "camvid val: no image matches" in problem
    (tmp_path / "test").mkdir()
    save(tmp_path / "test/a.png", np.zeros((4, 4, 3), dtype=np.uint8))
    assert any("a.png has no mask" in problem for problem in check_dataset(spec).problems)


def test_a_missing_root_stops_the_check(tmp_path):
    with pytest.raises(SegkdError, match="no folder"):
        check_dataset(read_spec("camvid", MaskSpec), tmp_path / "nowhere")


def test_contact_sheet_shows_images_labels_and_legend(tmp_path):
    spec = read_spec(make_camvid(tmp_path), MaskSpec)
    contact_sheet = partial(check.contact_sheet, paint=partial(overlay, colors=spec.colors))
    sheet = contact_sheet(spec, "train", train_transform((32, 32), scale=(0.5, 1.0)), count=2, seed=1)
    again = contact_sheet(spec, "train", train_transform((32, 32), scale=(0.5, 1.0)), count=2, seed=1)
    assert sheet.tobytes() == again.tobytes()
    taller = contact_sheet(spec, "train", eval_transform((32, 32)), count=9, seed=1)
    assert taller.width == sheet.width
    assert taller.height > sheet.height
    colors = {color for _, color in sheet.getcolors(1 << 24)}
    assert set(spec.colors) <= colors
    with pytest.raises(SegkdError, match="count=0"):
        contact_sheet(spec, "train", eval_transform(), count=0)


REAL = Path(os.environ.get("SEGKD_DATA", "")) / "camvid"


@pytest.mark.skipif(not (os.environ.get("SEGKD_DATA") and REAL.is_dir()), reason="needs camvid under SEGKD_DATA")
def test_real_camvid_has_the_published_sizes_and_shares():
    report = check_dataset(read_spec("camvid", MaskSpec))
    assert report.problems == []
    train, val = report.splits[:2]
    assert (train.images, train.sizes) == (367, {(360, 480): 367})
    assert (val.images, val.sizes) == (101, {(360, 480): 101})
    published = [16.9, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.6, 0.3]
    assert list(train.counts.values()) == pytest.approx([*published, 4.0], abs=0.06)
