"""Formats by name, and one of one's own."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segkd.data.boxes import BoxSpec
from segkd.data.check import check_dataset
from segkd.data.description import DatasetSpec, read_spec
from segkd.data.formats import find_format
from segkd.data.masks import MaskSpec
from segkd.errors import SegkdError
from segkd.registry import things

OWN = """
import numpy as np

from segkd.data.formats.masks import Masks, MaskFiles


class Files(MaskFiles):
    def read_mask(self, path):
        return np.loadtxt(path, dtype=np.uint8)


class Numbers(Masks):
    made_of = Files


def no_class():
    pass
"""
CLASSES = [{"name": "cat", "color": [1, 2, 3]}, {"name": "dog", "color": [3, 2, 1]}]


def describe(folder: Path, **more: object) -> Path:
    splits = {"train": {"images": "*.png", "masks": "*.txt"}}
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "root": ".", "splits": splits, "classes": CLASSES, **more}))
    return path


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_numbers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    np.savetxt(tmp_path / "a.txt", [[0, 1, 1], [255, 0, 0]], fmt="%d")
    return tmp_path


def test_each_file_is_a_format_that_says_what_it_is():
    assert {"masks", "colors", "coco_masks", "coco", "voc", "yolo"} <= set(things("format"))
    for name in things("format"):
        found = find_format(name, DatasetSpec)
        assert issubclass(found, (MaskSpec, BoxSpec))
        assert "\n" not in found.title


def test_colors_are_masks_in_colours(own):
    Image.fromarray(np.array([[[1, 2, 3], [3, 2, 1]]], np.uint8)).quantize(2).save(own / "a.bmp")
    splits = {"train": {"images": "*.png", "masks": "*.bmp"}}
    Image.new("RGB", (2, 1)).save(own / "a.png")
    sample = read_spec(describe(own, format="colors", splits=splits)).samples("train").read(0)
    assert sample.label.tolist() == [[0, 1]]
    with pytest.raises(SegkdError, match=r"masks: expected 'colors', got 'ids'"):
        read_spec(describe(own, format="colors", masks="ids"))


def test_ones_own_is_named_by_a_description_that_a_config_names(own):
    path = describe(own, format="own_numbers:Numbers")
    spec = read_spec(path, MaskSpec, own_code=True)
    assert spec.samples("train").read(0).label.tolist() == [[0, 1, 1], [255, 0, 0]]
    assert check_dataset(spec).problems == []
    (own / "a.txt").rename(own / "b.txt")
    assert "a.png has no mask" in check_dataset(spec).problems[0]
    with pytest.raises(SegkdError, match=r"'own_numbers:Numbers' names code, which a data set may do only where a co"):
        read_spec(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_nmbers:Numbers", r"the format 'own_nmbers:Numbers': there is no module 'own_nmbers'"),
        ("own_numbers:Nmbers", r"own_numbers has no 'Nmbers', did you mean 'Numbers'\?"),
        ("own_numbers:no_class", "is no class that derives from segkd.data.description.DatasetSpec"),
        ("own_numbers:", "one of your own is named package.module:Name"),
    ],
)
def test_what_is_no_format_of_ones_own(own, name, message):
    with pytest.raises(SegkdError, match=message) as error:
        read_spec(describe(own, format=name), own_code=True)
    assert str(error.value).startswith(f"{own}/mine.yaml: ")
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("format", "kind", "message"),
    [
        ("coco", MaskSpec, "its key 'format' says that it holds boxes for detection, not masks for segmentation"),
        ("colors", BoxSpec, "its key 'format' says that it holds masks for segmentation, not boxes for detection"),
        ("yolo_", DatasetSpec, r"format: expected .* or 'yolo' \(did you mean 'yolo'\?\), got 'yolo_'"),
        (3, DatasetSpec, "format: expected .* or 'yolo', got 3"),
    ],
)
def test_another_format_than_is_asked_for(tmp_path, format, kind, message):
    with pytest.raises(SegkdError, match=message):
        read_spec(describe(tmp_path, format=format), kind)
