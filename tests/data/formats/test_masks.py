import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml
from trees import blocks, make_camvid, make_cityscapes, make_streets, make_voc, read_pair

from segkd.data.description import read_spec
from segkd.data.masks import MaskSpec, Pair
from segkd.errors import SegkdError
from segkd.resources import resource_dir

MAKERS = {"cityscapes": make_cityscapes, "voc2012": make_voc, "camvid": make_camvid, "streets": make_streets}
# Written out a second time, from the benchmark's own definition, so that a slip in the YAML cannot pass.
CITYSCAPES_TRAIN_IDS = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip


def one_line(error: pytest.ExceptionInfo) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", MAKERS)
def test_shipped_data_set_pairs_every_image_with_its_own_mask(name, tmp_path):
    spec = read_spec(MAKERS[name](tmp_path), MaskSpec)
    for split in spec.splits:
        if split == "test":
            continue
        pairs = spec.samples(split).pairs
        assert pairs == sorted(pairs)
        assert len(pairs) == {"train": 3, "val": 2, "trainval": 5, "trainaug": 4}[split]
        for pair in pairs:
            digits = re.findall(r"\d{6}", pair.image.name)
            assert re.findall(r"\d{6}", pair.mask.name) == digits
            image, mask = read_pair(pair, spec)
            assert image.shape == (64, 96, 3)
            assert mask.shape == (64, 96)
            assert set(np.unique(mask)) <= {*range(spec.num_classes), spec.ignore_index}


def test_shipped_name_with_root_equals_the_yaml_with_root(tmp_path):
    path = make_camvid(tmp_path)
    assert (
        read_spec("camvid", MaskSpec).samples("val", tmp_path).pairs == read_spec(path, MaskSpec).samples("val").pairs
    )


def test_every_cityscapes_pixel_arrives_as_the_right_class(tmp_path):
    spec = read_spec(make_cityscapes(tmp_path), MaskSpec)
    for index, pair in enumerate(spec.samples("train").pairs):
        raw = blocks(34, (64, 96), index)
        _, mask = read_pair(pair, spec)
        for value in range(34):
            name = CITYSCAPES_TRAIN_IDS.get(value)
            expected = 255 if name is None else spec.class_names.index(name)
            assert (mask[raw == value] == expected).all()
    assert spec.class_names == list(CITYSCAPES_TRAIN_IDS.values())
    assert spec.colors[spec.class_names.index("bicycle")] == (119, 11, 32)


@pytest.mark.parametrize("split", ["train", "trainaug"])
def test_every_voc_pixel_arrives_as_its_palette_index(split, tmp_path):
    spec = read_spec(make_voc(tmp_path), MaskSpec)
    for index, pair in enumerate(spec.samples("train").pairs):
        raw = blocks(21, (64, 96), index)
        raw[31:33] = 255
        np.testing.assert_array_equal(read_pair(pair, spec)[1], raw)
    folders = {pair.mask.parent.name for pair in spec.samples(split).pairs}
    assert folders == {"train": {"SegmentationClass"}, "trainaug": {"SegmentationClassAug"}}[split]


def test_every_camvid_pixel_arrives_and_void_is_ignored(tmp_path):
    spec = read_spec(make_camvid(tmp_path), MaskSpec)
    for index, pair in enumerate(spec.samples("train").pairs):
        raw = blocks(12, (64, 96), index)
        np.testing.assert_array_equal(read_pair(pair, spec)[1], np.where(raw == 11, 255, raw))
    assert spec.num_classes == 11


def test_voc_colours_are_the_official_colour_map():
    def color(index: int) -> tuple[int, ...]:
        return tuple(sum(((index >> 3 * bit + channel) & 1) << 7 - bit for bit in range(3)) for channel in range(3))

    spec = read_spec("voc2012", MaskSpec)
    assert spec.colors == [color(index) for index in range(21)]


def test_missing_root_says_how_to_set_it(tmp_path):
    with pytest.raises(SegkdError, match=r"data\.root.*SEGKD_DATA") as error:
        read_spec("cityscapes", MaskSpec).samples("train", tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in one_line(error)


def test_unknown_split_names_the_nearest(tmp_path):
    with pytest.raises(SegkdError, match=r"'camvid' has no split 'valid'; did you mean 'val'\?"):
        read_spec(make_camvid(tmp_path), MaskSpec).samples("valid")


def test_empty_split_names_the_pattern(tmp_path):
    spec = read_spec(make_camvid(tmp_path), MaskSpec)
    with pytest.raises(SegkdError, match=re.escape(f"camvid test: no image matches {tmp_path}/test/*.png")):
        spec.samples("test")


def test_missing_masks_are_counted_and_the_first_is_named(tmp_path):
    spec = read_spec(make_camvid(tmp_path), MaskSpec)
    first, second, _ = spec.samples("train").pairs
    first.mask.unlink()
    second.mask.unlink()
    with pytest.raises(SegkdError) as error:
        spec.samples("train")
    assert f"{first.image} has no mask {first.mask} (and 1 more" in one_line(error)
    assert len(spec.scan("train")) == 1


def test_list_entry_without_image_and_missing_list(tmp_path):
    spec = read_spec(make_voc(tmp_path), MaskSpec)
    listing = tmp_path / "ImageSets/Segmentation/train.txt"
    listing.write_text(listing.read_text() + "2007_999999\n")
    with pytest.raises(SegkdError, match=r"train\.txt lists '2007_999999', but no image"):
        spec.samples("train")
    listing.unlink()
    with pytest.raises(SegkdError, match=r"no list .*train\.txt"):
        spec.samples("train")


@pytest.mark.parametrize("forms", [("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFC"), ("NFC", "NFC", "NFD")])
def test_image_mask_and_list_may_spell_accents_in_different_ways(forms, tmp_path):
    spec = read_spec(make_voc(tmp_path), MaskSpec)
    first = spec.samples("train").pairs[0]
    image, mask, listed = (unicodedata.normalize(form, "Zürich_é") for form in forms)
    pair = Pair(first.image.rename(first.image.with_stem(image)), first.mask.rename(first.mask.with_stem(mask)))
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text(f"{listed}\n", encoding="utf-8-sig")
    assert spec.samples("train").pairs == [pair]


def test_hidden_files_are_left_out(tmp_path):
    spec = read_spec(make_camvid(tmp_path), MaskSpec)
    (tmp_path / "train/._0001TP_000000.png").write_bytes(b"resource fork")
    assert len(spec.samples("train").pairs) == 3


def broken(tmp_path: Path, change) -> Path:
    content = yaml.safe_load((resource_dir("datasets") / "camvid.yaml").read_text())
    change(content)
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(ignore_indx=255), r"unknown key 'ignore_indx'; did you mean 'ignore_index'\?"),
        (
            lambda c: c["splits"]["train"].update(image="x/*"),
            r"unknown key 'splits.train.image'; did you mean 'images'\?",
        ),
        (lambda c: c["classes"][2].update(colour=[0, 0, 0]), r"unknown key 'classes.2.colour'; did you mean 'color'\?"),
        (lambda c: c["splits"]["train"].pop("masks"), r"key 'splits.train.masks' is required"),
        (lambda c: c["classes"][0].update(color=[0, 0, 256]), r"classes.0.color.2: .*255, got 256"),
        (lambda c: c.update(ignore_index=3), r"ignore_index 3 is also a class id"),
        (lambda c: c["label_map"].update({12: 11}), r"raw id 12 to class 11, but class ids end at 10"),
        (lambda c: c["label_map"].update({300: 1}), r"label_map: .*300"),
        (lambda c: c["classes"][1].update(name="sky"), r"class name 'sky' is used twice"),
        (lambda c: c["splits"]["train"].update(images="a/*/*.png"), r"same number of \*"),
        (lambda c: c["splits"]["train"].update(images="a/**/*.png"), r"the only wildcard"),
        (lambda c: c["splits"]["train"].update(images="{a,b}/*.png"), r"braces may only list suffixes at the end"),
        (lambda c: c.update(masks="colours"), r"masks: .*'ids' or 'colors' .*, got 'colours'"),
        (lambda c: c.update(masks="colors"), r"label_map is of ids, and masks: colors has none"),
        (
            lambda c: c.update(ignore_colors=[[128, 0, 0]]),
            r"ignore_colors has \[128, 0, 0\], the colour of class 'build",
        ),
        (lambda c: c.update(ignore_colors=[1, 2, 3]), r"ignore_colors.0: .*got 1"),
        (
            lambda c: c.update(
                masks="colors", label_map=None, classes=[*c["classes"], {**c["classes"][0], "name": "x"}]
            ),
            r"masks: colors, but classes 'sky' and 'x' share the colour \[128, 128, 128\]",
        ),
        (lambda c: c.update(format="voc"), r"its key 'format' says that it holds boxes for detection"),
        (lambda c: c.update(generator="street"), r"generator: .*'streets', got 'street'"),
        (lambda c: c.update(generator="streets"), r"give both or neither"),
        (lambda c: c.update(generator="streets", drawing={"trains": 3}), r"'drawing.trains'; did you mean 'train'\?"),
    ],
)
def test_a_slip_in_the_yaml_is_one_line_that_names_file_and_key(change, message, tmp_path):
    path = broken(tmp_path, change)
    with pytest.raises(SegkdError, match=message) as error:
        read_spec(path, MaskSpec)
    assert one_line(error).startswith(f"{path}: ")


def test_streets_are_drawn_beside_data_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SEGKD_DATA", str(tmp_path))
    spec = read_spec("streets", MaskSpec)
    assert spec.resolve_root() == Path("datasets/streets")
    (tmp_path / "streets").mkdir()
    assert spec.resolve_root() == tmp_path / "streets"
    assert spec.resolve_root("mine") == Path("mine")
