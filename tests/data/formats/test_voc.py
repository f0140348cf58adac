import unicodedata

import pytest
from PIL import Image
from trees import SIZE, make_voc_detection, things, write_voc

from segkd.data.boxes import BoxSpec
from segkd.data.check import check_dataset
from segkd.data.description import read_spec
from segkd.errors import SegkdError


@pytest.fixture
def spec(tmp_path):
    return read_spec(make_voc_detection(tmp_path), BoxSpec)


@pytest.fixture
def xml(spec):
    return spec.resolve_root() / "Annotations/2007_000000.xml"


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("val", 2), ("trainval", 5)])
def test_every_box_arrives_with_its_class_and_the_difficult_are_flagged(spec, split, count):
    samples = spec.samples(split)
    assert len(samples) == count
    for index in range(2 if split == "train" else 1):
        objects, shown = samples.of(index), things(index, 20)
        assert objects.labels.tolist() == [thing.label for thing in shown]
        assert [tuple(box) for box in objects.boxes.tolist()] == [thing.box for thing in shown]
        assert objects.difficult.tolist() == [False, False, True]
        assert not objects.crowd.any()
        assert tuple(samples.sizes[index]) == SIZE
        assert samples.images[index].is_file()
    assert len(samples.of(count - 1).labels) == 0


def test_the_corners_1_1_width_height_are_the_whole_image(spec, xml):
    write_voc(xml, SIZE, [("cat", (1, 1, SIZE[1], SIZE[0]), False), ("dog", (5.5, 6.5, 7, 8), False)])
    boxes = spec.samples("train").of(0).boxes
    assert boxes.tolist() == [[0, 0, SIZE[1], SIZE[0]], [4.5, 5.5, 7, 8]]


def test_tools_that_count_from_0_lose_nothing(spec, xml):
    write_voc(xml, SIZE, [("cat", (0, 0, SIZE[1], SIZE[0]), False)])
    assert spec.samples("train").of(0).boxes.tolist() == [[0, 0, SIZE[1], SIZE[0]]]


def test_a_stray_click_is_dropped_and_not_an_object_one_pixel_wide(spec, xml):
    write_voc(xml, SIZE, [("cat", (7, 8, 7, 8), False), ("cat", (7, 8, 7, 9), False), ("cat", (9, 8, 7, 9), False)])
    dropped = spec.samples("train").dropped
    assert {reason: len(lines) for reason, lines in dropped.items()} == {"zero area": 2, "inverted": 1}
    assert dropped["zero area"][0].endswith("2007_000000.jpg: box [7, 8, 7, 8]")


def test_without_a_list_every_annotation_counts_but_hidden_files(spec):
    split = spec.splits["train"].model_copy(update={"list": None})
    spec = spec.model_copy(update={"splits": {"all": split}})
    (spec.resolve_root() / "Annotations/._2007_000000.xml").write_bytes(b"resource fork")
    assert [path.stem for path in spec.samples("all").images] == [
        "2007_000000", "2007_000001", "2007_000002", "2008_000000", "2008_000001",
    ]  # fmt: skip
    for path in (spec.resolve_root() / "Annotations").iterdir():
        path.unlink()
    with pytest.raises(SegkdError, match=r"voc_detection all: no image in .*Annotations/\*\.xml"):
        spec.samples("all")


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("forms", [("NFC", "NFD", "NFC"), ("NFD", "NFC", "NFC"), ("NFC", "NFC", "NFD")])
def test_image_annotation_and_list_may_spell_accents_in_different_ways(spec, xml, forms, listed):
    root, (image, annotation, line) = spec.resolve_root(), (unicodedata.normalize(form, "Zürich_é") for form in forms)
    moved = (root / "JPEGImages/2007_000000.jpg").rename(root / f"JPEGImages/{image}.jpg")
    xml.rename(xml.with_stem(annotation))
    (root / "ImageSets/Main/train.txt").write_text(f"{line}\n", encoding="utf-8-sig")
    if not listed:
        part = spec.splits["train"].model_copy(update={"list": None})
        spec = spec.model_copy(update={"splits": {"train": part}})
    assert moved in spec.samples("train").images


class TestSuffixes:
    @pytest.fixture
    def unlisted(self, spec):
        return spec.model_copy(update={"splits": {"all": spec.splits["train"].model_copy(update={"list": None})}})

    def test_of_either_case(self, spec, xml):
        image = spec.resolve_root() / "JPEGImages/2007_000000.jpg"
        image = image.rename(image.with_suffix(".JPG"))
        xml.rename(xml.with_suffix(".XML"))
        assert spec.samples("train").images[0] == image

    def test_an_image_of_another_is_a_problem_until_it_is_listed(self, spec, unlisted):
        image = spec.resolve_root() / "JPEGImages/2007_000000.jpg"
        image = image.rename(image.with_suffix(".jpeg"))
        for part, split in ((spec, "train"), (unlisted, "all")):
            with pytest.raises(SegkdError) as error:
                part.samples(split)
            assert one_line(error) == (
                f'voc_detection {split}: {image} does not fit JPEGImages/*.jpg: write "JPEGImages/*.{{jpg,jpeg}}"'
            )
            listed = part.splits[split].model_copy(update={"images": "JPEGImages/*.{jpg,jpeg}"})
            listed = part.model_copy(update={"splits": {split: listed}})
            assert listed.samples(split).images[0] == image

    def test_two_that_differ_in_it_only(self, spec):
        image = spec.resolve_root() / "JPEGImages/2007_000000.jpg"
        image.with_suffix(".JPG").touch()
        with pytest.raises(SegkdError, match=r"000000\.JPG and .*000000\.jpg differ in their suffix only: keep one"):
            spec.samples("train")

    def test_images_without_annotation_are_said_where_there_is_no_list(self, spec, unlisted, xml):
        before = unlisted.samples("all").remarks
        assert not [remark for remark in before if "left out" in remark]
        path = spec.resolve_root() / "Annotations/2008_000001.xml"
        path.unlink()
        for name in ("extra.jpg", "extra.png"):
            (spec.resolve_root() / "JPEGImages" / name).touch()
        image = spec.resolve_root() / "JPEGImages/2008_000001.jpg"
        expected = f"voc_detection all: images without an annotation, left out: 2, such as {image}, whose annotation"
        remark, *_ = unlisted.samples("all").remarks
        assert expected in str(check_dataset(unlisted))
        assert remark.startswith(expected)
        assert remark.endswith(f"would be {path}")
        assert not [remark for remark in spec.samples("train").remarks if "left out" in remark]


@pytest.mark.parametrize("size", ["", "<size><width>0</width><height>0</height></size>"])
def test_a_size_that_is_not_given_is_that_of_the_image(spec, xml, size):
    xml.write_text(f"<annotation>{size}</annotation>")
    assert tuple(spec.samples("train").sizes[0]) == SIZE
    image = Image.new("RGB", SIZE[::-1])
    image.getexif()[0x0112] = 6
    image.save(spec.resolve_root() / "JPEGImages/2007_000000.jpg", exif=image.getexif())
    assert tuple(spec.samples("train").sizes[0]) == SIZE[::-1]
    (spec.resolve_root() / "JPEGImages/2007_000000.jpg").write_bytes(b"")
    with pytest.raises(SegkdError, match=r"cannot read image .*2007_000000\.jpg"):
        spec.samples("train")
    (spec.resolve_root() / "JPEGImages/2007_000000.jpg").unlink()
    with pytest.raises(SegkdError, match=r"no image .*2007_000000\.jpg"):
        spec.samples("train")


def test_an_ignored_class_is_left_out_and_counted(spec, xml):
    write_voc(
        xml, SIZE, [("dragon", (1, 1, 9, 9), False), ("cat", (1, 1, 9, 9), False), ("dragon", (1, 1, 9, 9), True)]
    )
    samples = spec.model_copy(update={"ignore": ["dragon", "elf"]}).samples("train")
    assert samples.of(0).labels.tolist() == [8]
    assert {why: len(lines) for why, lines in samples.dropped.items()} == {"class 'dragon', which is ignored": 2}
    (remark,) = (remark for remark in samples.remarks if "no box" not in remark)
    assert remark.startswith("voc_detection train: ignore names the class 'elf', which the annotations do not have; ")


def test_an_unknown_class_is_named_with_the_nearest(spec, xml):
    write_voc(xml, SIZE, [("motorbikes", (1, 1, 9, 9), False)])
    with pytest.raises(SegkdError) as error:
        spec.samples("train")
    assert one_line(error) == (
        f"{xml}: has the class 'motorbikes', which the data set does not name; did you mean 'motorbike'? "
        "To leave it out: ignore: [motorbikes]"
    )


BOX = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>{}</xmax></bndbox>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read as XML"),
        ("<annotation><object></annotation>", "cannot be read as XML: mismatched tag"),
        ("\x00\x01", "cannot be read as XML"),
        ("<annotation><object/></annotation>", "has the class ''"),
        (
            "<annotation><object><name>cat</name></object></annotation>",
            "<object> needs a number as bndbox/xmin, got None",
        ),
        (f"<annotation><object><name>cat</name>{BOX.format('x')}</object></annotation>", "bndbox/xmax, got 'x'"),
        (f"<annotation><object><name>cat</name>{BOX.format(9)}</object></annotation>", "bndbox/ymax, got None"),
        (f"<annotation><object><name>cat</name>{BOX.format('nan')}</object></annotation>", "bndbox/xmax, got 'nan'"),
        ("<annotation><size><width>inf</width><height>3</height></size></annotation>", "as size/width, got 'inf'"),
        ("<annotation><size><width>9</width></size></annotation>", "needs a number as size/height, got None"),
    ],
)
def test_a_broken_file_is_named_and_the_others_are_read(spec, xml, text, message):
    xml.write_text(text)
    with pytest.raises(SegkdError, match=message) as error:
        spec.samples("train")
    assert one_line(error).startswith(f"{xml}: ")
    samples = spec.scan("train")
    problems = samples.problems
    assert len(problems) == 1
    assert [path.stem for path in samples.images] == ["2007_000001", "2007_000002"]


def test_missing_files_are_named_and_counted(spec, xml):
    xml.unlink()
    xml.with_name("2007_000001.xml").unlink()
    with pytest.raises(SegkdError) as error:
        spec.samples("train")
    image = spec.resolve_root() / "JPEGImages/2007_000000.jpg"
    assert one_line(error) == f"no annotation {xml} of image {image} (and 1 more like it)"
    (spec.resolve_root() / "ImageSets/Main/train.txt").unlink()
    with pytest.raises(SegkdError, match=r"^no list .*/ImageSets/Main/train\.txt$"):
        spec.samples("train")
