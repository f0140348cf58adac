from pathlib import Path

import pytest
import yaml
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights
from trees import make_coco, make_voc_detection

from segkd.data.boxes import BoxSpec
from segkd.data.description import read_spec
from segkd.errors import SegkdError
from segkd.resources import resource_dir


def test_coco_has_the_80_classes_of_pretrained_detectors_in_their_order():
    categories = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    spec = read_spec("coco", BoxSpec)
    assert spec.class_names == [name for name in categories if name not in ("__background__", "N/A")]
    assert (spec.label_of["person"], spec.label_of["toothbrush"]) == (1, 80)


def test_voc_has_the_classes_of_voc2012_as_its_boxes_spell_them():
    masks = yaml.safe_load((resource_dir("datasets") / "voc2012.yaml").read_text())["classes"]
    names = read_spec("voc_detection", BoxSpec).class_names
    assert names == [item["name"].replace(" ", "") for item in masks[1:]]
    assert len(names) == 20


def test_bccd_has_its_3_classes():
    assert read_spec("bccd", BoxSpec).label_of == {"RBC": 1, "WBC": 2, "Platelets": 3}


@pytest.mark.parametrize("name", ["coco", "voc_detection", "bccd"])
def test_colours_tell_all_classes_apart(name):
    spec = read_spec(name, BoxSpec)
    assert len(set(spec.colors)) == spec.num_classes


def test_a_split_is_there_when_its_list_or_annotations_are(tmp_path):
    voc, coco = (
        read_spec(make_voc_detection(tmp_path / "voc"), BoxSpec),
        read_spec(make_coco(tmp_path / "c"), BoxSpec),
    )
    assert voc.is_there("train")
    assert not voc.is_there("test")
    assert coco.is_there("val")
    (tmp_path / "c/annotations/instances_val2017.json").unlink()
    assert not coco.is_there("val")


def broken(tmp_path: Path, name: str, change) -> Path:
    content = yaml.safe_load((resource_dir("datasets") / f"{name}.yaml").read_text())
    change(content)
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bccd", lambda c: c.pop("format"), r"key 'format' is required"),
        ("bccd", lambda c: c.update(format="vos"), r"format: .*did you mean 'voc'\?\), got 'vos'"),
        (
            "bccd",
            lambda c: c["splits"]["train"].update(anotations="x"),
            r"'splits.train.anotations'; did you mean 'anno",
        ),
        (
            "bccd",
            lambda c: c["splits"]["train"].update(images="JPEGImages"),
            r"splits.train.images 'JPEGImages' must hold",
        ),
        ("bccd", lambda c: c["splits"]["val"].update(annotations="*/*.xml"), r"splits.val.annotations .* hold one \*"),
        (
            "bccd",
            lambda c: c["splits"]["val"].update(images="{a,b}/*.jpg"),
            r"braces may only list suffixes at the end",
        ),
        ("coco", lambda c: c["splits"]["val"].update(images="val2017/*.jpg"), r"splits.val.images .* hold no \*"),
        ("coco", lambda c: c["splits"]["val"].update(list="val.txt"), r"splits.val.list is for format 'voc'"),
        ("coco", lambda c: c["classes"][1].update(name="person"), r"class name 'person' is used twice"),
        ("camvid", lambda c: None, r"key 'format' is required"),
    ],
)
def test_a_slip_in_the_yaml_is_one_line_that_names_file_and_key(name, change, message, tmp_path):
    path = broken(tmp_path, name, change)
    with pytest.raises(SegkdError, match=message) as error:
        read_spec(path, BoxSpec)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
