import json
import unicodedata

import numpy as np
import pytest
from trees import SIZE, make_coco, things

from segkd.data.boxes import BoxSpec
from segkd.data.description import read_spec
from segkd.errors import SegkdError


@pytest.fixture
def spec(tmp_path):
    return read_spec(make_coco(tmp_path), BoxSpec)


def change(spec, edit):
    path = spec.resolve_root() / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def said(samples):
    """The remarks, but for that on classes without a box."""
    return [remark for remark in samples.remarks if "no box" not in remark]


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("split", "count"), [("train", 3), ("val", 2)])
def test_every_box_arrives_with_its_class(spec, split, count):
    samples = spec.samples(split)
    assert len(samples) == count
    for index in range(count):
        expected = things(index, 80) if index < count - 1 else []
        objects = samples.of(index)
        singles = objects.select(~objects.crowd)
        given = sorted(zip(singles.labels.tolist(), map(tuple, singles.boxes.tolist()), strict=True))
        assert given == sorted((thing.label, thing.box) for thing in expected)
        assert objects.crowd.sum() == (index == 0)
        assert not objects.difficult.any()
        assert samples.images[index].parent.name == f"{split}2017"
        assert samples.images[index].is_file()
        assert tuple(samples.sizes[index]) == SIZE
    assert samples.dropped == {}


def test_areas_are_those_of_the_objects_as_the_file_gives_them(spec):
    objects = spec.samples("train").of(1)
    extents = objects.boxes[:, 2:] - objects.boxes[:, :2]
    np.testing.assert_allclose(objects.areas, extents.prod(1) / 2)


def test_masks_are_drawn_from_polygons_and_runs(spec):
    samples = spec.samples("train", masks=True)
    objects, masks = samples.of(0), samples.masks(0)
    assert len(masks) == 4
    for box, mask in zip(objects.boxes.astype(int), masks, strict=True):
        expected = np.zeros(SIZE, np.uint8)
        expected[box[1] : box[3], box[0] : box[2]] = 1
        np.testing.assert_array_equal(mask, expected)
    assert samples.masks(2).shape == (0, *SIZE)


def test_an_unknown_class_is_named_with_the_nearest(spec):
    path = change(spec, lambda c: next(i for i in c["categories"] if i["name"] == "person").update(name="persons"))
    with pytest.raises(SegkdError) as error:
        spec.samples("train")
    assert f"{path}: annotation " in one_line(error)
    assert "has the class 'persons', which the data set does not name; did you mean 'person'?" in one_line(error)
    assert "(and 1 more like it)" in one_line(error)  # a box and the crowd
    change(spec, lambda c: next(i for i in c["categories"] if i["name"] == "persons").update(name="##"))
    with pytest.raises(SegkdError, match=r"valid: person, .*, \.\.\. \(80 in all\)\. To leave it out: ignore: \[##\]"):
        spec.samples("train")


def test_a_category_without_annotations_may_be_unknown(spec):
    change(spec, lambda c: c["categories"].append({"id": 0, "name": "everything"}))
    assert len(spec.samples("train")) == 3


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.pop("bbox"), "has no 'bbox'"),
        (lambda a: a.update(bbox=[1, 2, 3]), r"has bbox \[1, 2, 3\] .*expected \[x, y, width, height\]"),
        (lambda a: a.update(bbox=None), "has bbox None"),
        (lambda a: a.update(bbox=[1, 2, 3, 10**400]), r"has bbox \[1, 2, 3, 1000"),
        (lambda a: a.update(bbox=[1, 2, "x", 4]), r"has bbox \[1, 2, 'x', 4\]"),
        (lambda a: a.update(area="large"), "area 'large'"),
        (lambda a: a.update(image_id=77), "has image_id 77, which is not among the images"),
        (lambda a: a.update(image_id=[1]), "is no mapping of COCO's keys"),
        (lambda a: a.update(category_id=999), "has category_id 999, which is not among the categories"),
    ],
)
def test_a_broken_annotation_is_named_and_the_others_are_read(spec, edit, message):
    path = change(spec, lambda c: edit(c["annotations"][1]))
    with pytest.raises(SegkdError, match=message) as error:
        spec.samples("train")
    assert one_line(error).startswith(f"{path}: annotation ")
    samples = spec.scan("train")
    problems = samples.problems
    assert len(problems) == 1
    assert len(samples.objects.labels) == 6


def test_masks_that_cannot_be_drawn_are_named_when_masks_are_asked_for(spec):
    change(spec, lambda c: [item.pop("segmentation") for item in c["annotations"]])
    assert len(spec.samples("train").objects.labels) == 7
    with pytest.raises(SegkdError, match=r"has no segmentation .*which masks need \(and 6 more like it\)"):
        spec.samples("train", masks=True)
    change(spec, lambda c: c["annotations"][0].update(segmentation={"size": [1, 1], "counts": [10**30]}))
    with pytest.raises(SegkdError, match=r"annotation \d+ has .*which masks need"):
        spec.samples("train", masks=True)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.pop("categories"), "expected COCO's lists images, annotations and categories"),
        (lambda c: c["images"][0].pop("height"), "images need id, file_name, height and width"),
        (lambda c: c["images"][0].update(width=float("inf")), "images need id, file_name, height and width"),
        (lambda c: c["images"][0].update(height=-1), "images need .*height -1 and width"),
        (lambda c: c["images"][0].update(width=1e300), "images need .*width 1e.300"),
        (lambda c: c["images"][0].update(height=10**20), "images need .*height 1000"),
        (lambda c: c["images"].append("x"), "images need id"),
        (lambda c: c["images"].append(c["images"][0]), "two images have one id"),
        (lambda c: c["categories"].append({"id": 4}), "categories id and name"),
    ],
)
def test_a_file_of_another_kind_is_named(spec, edit, message):
    path = change(spec, edit)
    with pytest.raises(SegkdError, match=message) as error:
        spec.samples("train")
    assert one_line(error).startswith(f"{path}: ")


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"images": 3}', "\x00", "[" * 100000])
def test_what_is_no_json_of_coco_is_named(spec, text):
    path = spec.resolve_root() / "annotations/instances_train2017.json"
    path.write_text(text)
    with pytest.raises(SegkdError) as error:
        spec.samples("train")
    assert one_line(error).startswith(f"{path}: ")


def test_an_ignored_class_is_left_out_and_counted(spec):
    path = change(spec, lambda c: next(i for i in c["categories"] if i["name"] == "person").update(name="crewman"))
    before = spec.model_copy(update={"ignore": []})
    with pytest.raises(SegkdError, match=r"'crewman'.*\? To leave it out: ignore: \[crewman\]"):
        before.samples("train")
    samples = spec.model_copy(update={"ignore": ["crewman", "crewmen"]}).samples("train")
    assert {why: len(lines) for why, lines in samples.dropped.items()} == {"class 'crewman', which is ignored": 2}
    assert len(samples.objects.labels) == 5
    assert 1 not in samples.objects.labels
    assert said(samples) == [
        "coco train: ignore names the class 'crewmen', which the annotations do not have; did you mean 'crewman'?"
    ]
    assert path.is_file()


def test_polygons_without_area_cost_their_own_object_and_are_counted(spec):
    def edit(content):
        whole = [item for item in content["annotations"] if not item["iscrowd"]]
        for item, polygons in zip(whole, ([[1, 2, 3, 4]], [], [[5, 5] * 4, *whole[2]["segmentation"]]), strict=False):
            item["segmentation"] = polygons

    change(spec, edit)
    assert len(spec.samples("train").objects.labels) == 7
    samples = spec.samples("train", masks=True)
    assert [len(lines) for lines in samples.dropped.values()] == [2]
    assert list(samples.dropped) == ["no mask: polygons without area, or none"]
    drawn = [len(samples.masks(index)) for index in range(3)]
    assert sum(drawn) == len(samples.objects.labels) == 5


def test_images_and_boxes_that_stand_there_twice_are_said(spec):
    def edit(content):
        image, other = content["images"][:2]
        content["images"].append({**image, "id": 1})
        twin = next(a for a in content["annotations"] if a["image_id"] == other["id"])
        content["annotations"] += [{**twin, "id": 900}, {**twin, "id": 901}, {**twin, "id": 902, "category_id": 5}]

    change(spec, edit)
    samples = spec.samples("train")
    image, box = samples.images[1], samples.of(1).boxes
    (corners,) = {tuple(row) for row in box.tolist() if (box == np.array(row, np.float32)).all(1).sum() > 2}
    assert said(samples) == [
        f"coco train: images that stand there more than once, under several ids: 1, such as {samples.images[0]}",
        f"coco train: boxes with the class and corners of another, which count too: 2, such as "
        f"[{', '.join(f'{value:g}' for value in corners)}] of {image}",
    ]


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_the_file_may_spell_accents_in_another_way_than_the_disk(spec, forms):
    there, written = (unicodedata.normalize(form, "Zürich_é.jpg") for form in forms)
    image = spec.samples("train").images[0]
    moved = image.rename(image.with_name(there))
    change(spec, lambda content: content["images"][0].update(file_name=written))
    assert spec.samples("train").images[0] == moved


def test_missing_files_are_named(spec):
    root = spec.resolve_root()
    (root / "train2017").rename(root / "elsewhere")
    with pytest.raises(SegkdError, match=rf"coco train: no folder of images {root}/train2017"):
        spec.samples("train")
    (root / "annotations/instances_train2017.json").unlink()
    with pytest.raises(SegkdError, match=rf"no annotations {root}/annotations/instances_train2017\.json"):
        spec.samples("train")
