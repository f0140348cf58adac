from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import make_camvid

from segkd.data import masks
from segkd.data.check import check_dataset
from segkd.data.description import read_spec
from segkd.data.formats.masks import Masks
from segkd.data.masks import MaskSpec

CLASSES = [{"name": name, "color": [20 * index, 0, 0]} for index, name in enumerate("abcdefgh")]


def spec_of(count: int, root: Path | None = None, **more) -> Masks:
    splits = {"train": {"images": "images/*.png", "masks": "masks/*.png"}}
    content = {"name": "mine", "root": root, "splits": splits, "classes": CLASSES[:count], **more}
    return Masks.model_validate(content)


def make(root: Path, *masks: object) -> None:
    """Write a pair for each mask, given as rows of ids."""
    for index, mask in enumerate(masks):
        for kind in ("images", "masks"):
            (root / kind).mkdir(exist_ok=True)
            Image.fromarray(np.array(mask, dtype=np.uint8)).save(root / kind / f"{index}.png")


def counts_of(**pixels: int) -> np.ndarray:
    counts = np.zeros(256, dtype=np.int64)
    for name, number in pixels.items():
        counts[int(name[1:])] = number
    return counts


class TestLook:
    def test_few_masks_are_read_where_they_hold_every_class(self, tmp_path, monkeypatch):
        monkeypatch.setattr(masks, "_LOOKS", (2, 4))
        make(tmp_path, [[0, 1]], *[[[0, 0]]] * 8, [[0, 255]])
        samples = spec_of(2, tmp_path).samples("train")
        counts, looked = samples.occurring(range(10))
        assert looked == 2
        assert counts[[0, 1, 255]].tolist() == [2, 1, 1]

    def test_and_more_where_they_do_not(self, tmp_path, monkeypatch):
        monkeypatch.setattr(masks, "_LOOKS", (2, 4))
        make(tmp_path, *[[[0, 0]]] * 9, [[0, 255]])
        samples = spec_of(2, tmp_path).samples("train")
        counts, looked = samples.occurring(range(10))
        assert looked == 4
        assert counts.sum() == 8
        monkeypatch.setattr(masks, "_LOOKS", (2, 40))
        assert samples.occurring(range(10))[1] == 10


class TestMissing:
    def test_all_there(self):
        assert spec_of(2).missing(counts_of(_0=1, _1=1), "any of 3 masks") == ""

    @pytest.mark.parametrize("present", [0, 1])
    def test_masks_of_0_and_255_without_label_map_are_told_which(self, present):
        counts = counts_of(**{f"_{present}": 3, "_255": 1})
        text = spec_of(2).missing(counts, "any of 3 masks")
        there, absent = "ab"[present], "ab"[1 - present]
        assert text == (
            f"class '{absent}' has no pixel in any of 3 masks: every pixel is '{there}' or ignored; 25 % are 255, "
            f"which is ignored: if that is '{absent}', say label_map: {{{present}: {present}, 255: {1 - present}}}"
        )

    def test_a_label_map_that_reaches_a_class_by_no_id(self):
        text = spec_of(3, label_map={0: 0, 1: 1, 9: "ignore"}).missing(counts_of(_0=3, _255=1), "any of 3 masks")
        assert text.endswith("is 'a' or ignored; label_map sends no id to 'c'")
        text = spec_of(3, label_map={0: 0, 1: 1, 2: 2}).missing(counts_of(_0=3, _2=1), "9 of 90 masks")
        assert text == "class 'b' has no pixel in 9 of 90 masks"

    def test_many_are_listed_in_part(self):
        counts = counts_of(_0=9, _1=9, _255=2)
        text = spec_of(8).missing(counts, "any of 3 masks")
        assert text == (
            "classes 'c', 'd', 'e', 'f', 'g' and 1 more have no pixel in any of 3 masks; 10 % are 255, which is "
            "ignored: if that is one of them, say so in label_map"
        )

    def test_colours_that_are_ignored_are_no_cause(self):
        for more in ({"masks": "colors"}, {"ignore_colors": [[1, 1, 1]]}):
            assert spec_of(3, **more).missing(counts_of(_0=3, _1=1, _255=1), "x") == "class 'c' has no pixel in x"

    def test_nothing_labelled(self):
        text = spec_of(2, label_map={1: 1, 0: 0}).missing(counts_of(_255=1), "any of 3 masks")
        assert text == "classes 'a', 'b' have no pixel in any of 3 masks: every pixel is ignored"


class TestCheck:
    def test_one_class_alone_is_a_problem(self, tmp_path):
        make(tmp_path, [[0, 255]], [[0, 0]])
        (problem,) = check_dataset(spec_of(2, tmp_path)).problems
        assert problem.startswith(
            "mine train: class 'b' has no pixel in any of 2 masks: every pixel is 'a' or ignored; 25"
        )

    def test_a_class_that_is_missing_is_said(self, tmp_path):
        make(tmp_path, [[0, 1]], [[0, 0]])
        report = check_dataset(spec_of(3, tmp_path))
        assert report.problems == []
        assert "    mine train: class 'c' has no pixel in any of 2 masks\n" in str(report)

    def test_masks_that_cannot_be_read_are_not_called_empty(self, tmp_path):
        spec = read_spec(make_camvid(tmp_path, train=1, val=0), MaskSpec)
        spec.samples("train").pairs[0].mask.write_bytes(b"")
        report = check_dataset(spec)
        assert all("no pixel" not in line for line in str(report).splitlines())
