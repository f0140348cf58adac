"""Faults of detection: its configs, its data sets and their annotations."""

import json
from pathlib import Path
from typing import Any

import yaml
from experiments import write

from faults.row import Fault, fifo, remove


def override(name: str, text: str, *texts: str, config: str = "tiny.yaml") -> Fault:
    return Fault(name, f"train {config} '{text}'", texts, folder="detection")


def coco(name: str, content: Any, *texts: str, file: str = "a.json", **described_too: Any) -> Fault:
    """Return the row of COCO's JSON a.json, or of a description mine.yaml with more keys, which is what is named."""
    described = {
        "name": "mine",
        "root": ".",
        "format": "coco",
        "splits": {part: {"images": "data/JPEGImages", "annotations": "a.json"} for part in ("train", "val")},
        "classes": [{"name": "cat", "color": [1, 2, 3]}],
        **described_too,
    }
    files = {"a.json": content if isinstance(content, (str, bytes)) else json.dumps(content), "mine.yaml": described}
    return Fault(name, "train tiny.yaml data.dataset=mine.yaml", (file, *texts), files, folder="detection")


IMAGE = {"id": 1, "file_name": "2007_000000.jpg", "height": 64, "width": 96}
CAT = {"id": 3, "name": "cat"}
THING = {"id": 7, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]}


def lists(images: Any = (IMAGE,), annotations: Any = (THING,), categories: Any = (CAT,)) -> dict[str, Any]:
    return {"images": list(images), "annotations": list(annotations), "categories": list(categories)}


def turn_classes(folder: Path) -> None:
    described = yaml.safe_load((folder / "data.yaml").read_text())
    write(folder / "turned.yaml", {**described, "classes": described["classes"][::-1]})


XML = "data/Annotations/2007_000001.xml"
FAULTS = [
    override("an unknown detector", "student.arch=gfll", "'gfll'", "gfl"),
    Fault(
        "a range of three sizes",
        "train tiny.yaml 'data.min_size=[48,56,64]' data.min_size_sampling=range",
        ("data", "min_size: [smallest, largest]", "[48, 56, 64]"),
        folder="detection",
    ),
    override("weights of no teacher", "student.inherit=true", "student.inherit", "one teacher", "there is none"),
    Fault(
        "a neck and head of a wider teacher",
        "train distilled.yaml student.inherit=true teacher.overrides.student.options.out_channels=96",
        ("student.inherit: 'backbone.fpn.inner_blocks.0.0.weight' is 64x", " and 96x", "inherit: head leaves the neck"),
        folder="detection",
    ),
    Fault(
        "weights of a teacher and of a checkpoint",
        "train distilled.yaml student.inherit=head student.checkpoint=a.pth",
        ("student.inherit and student.checkpoint", "leave one"),
        folder="detection",
    ),
    override("an unknown norm", "student.norm=group", "student.norm", "batch", "eval", "frozen"),
    override("an unknown backbone", "student.backbone=resnet81", "'resnet81'"),
    override("backbone weights that are not there", "student.backbone_weights=none.pth", "none.pth"),
    override("an unknown option of a detector", "student.options.out_chanels=64", "out_chanels", "'out_channels'"),
    override("channels that no group divides", "student.options.out_channels=65", "out_channels", "32"),
    override("a word for channels", "student.options.out_channels=many", "out_channels", "'many'"),
    override("a shorter side of 0", "data.min_size=0", "data.min_size", "0"),
    override("a key of segmentation", "student.encoder=resnet18", "student.encoder"),
    override("a checkpoint of nothing", "student.checkpoint=none.pth", "none.pth"),
    override(
        "a pixel weighting for boxes", "distill.pixel_weighting={rdd: {}}", "pixel_weighting", config="distilled.yaml"
    ),
    override("a data set of masks", "data.dataset=camvid", "format"),
    Fault(
        "a teacher of segmentation",
        "train distilled.yaml teacher.config=quickstart_teacher",
        ("teacher.config", "detection"),
        folder="detection",
    ),
    Fault("a missing annotation", "train tiny.yaml", ("2007_000001.xml",), prepare=remove(XML), folder="detection"),
    Fault(
        "a torn annotation",
        "train tiny.yaml",
        ("2007_000001.xml", "XML"),
        {XML: "<annotation><obj"},
        folder="detection",
    ),
    Fault(
        "an annotated class that is none",
        "train tiny.yaml",
        ("2007_000001.xml", "'cat'"),
        {XML: "<annotation><object><name>cat</name></object></annotation>"},
        folder="detection",
    ),
    Fault(
        "a corner that is a word",
        "train tiny.yaml",
        ("2007_000001.xml", "xmin", "'left'"),
        {XML: "<annotation><object><name>RBC</name><bndbox><xmin>left</xmin></bndbox></object></annotation>"},
        folder="detection",
    ),
    Fault(
        "a missing image",
        "train tiny.yaml",
        ("2007_000001.jpg",),
        prepare=remove("data/JPEGImages/2007_000001.jpg"),
        folder="detection",
    ),
    Fault(
        "a missing list",
        "train tiny.yaml",
        ("train.txt",),
        prepare=remove("data/ImageSets/Main/train.txt"),
        folder="detection",
    ),
    coco("COCO that is no JSON", "{", "JSON"),
    coco("COCO that is a list", [], "images, annotations and categories"),
    coco("COCO without categories", {"images": [], "annotations": []}, "categories"),
    coco("COCO of deep nesting", "[" * 100_000, "JSON"),
    coco("COCO with an image twice", lists(images=(IMAGE, IMAGE)), "one id"),
    coco("COCO with an image without size", lists(images=({"id": 1, "file_name": "a.jpg"},)), "height"),
    coco("COCO with a box of no image", lists(annotations=({**THING, "image_id": 9},)), "image_id 9"),
    coco("COCO with a box of no category", lists(annotations=({**THING, "category_id": 9},)), "category_id 9"),
    coco("COCO with a class that is none", lists(categories=({"id": 3, "name": "dog"},)), "'dog'", "ignore: [dog]"),
    coco(
        "a class that is ignored too",
        lists(),
        "'cat'",
        "both in classes and in ignore",
        file="mine.yaml",
        ignore=["cat"],
    ),
    coco("classes to ignore as a word", lists(), "ignore", "list", file="mine.yaml", ignore="dog"),
    coco("COCO with a box of three numbers", lists(annotations=({**THING, "bbox": [1, 2, 3]},)), "bbox"),
    coco("COCO with a box of words", lists(annotations=({**THING, "bbox": list("abcd")},)), "bbox"),
    override("an infinite option", "student.options.score_thresh=.inf", "student.options", "finite"),
    override("true for an option", "student.options.out_channels=true", "out_channels", "a whole number"),
    override("a shorter side of a million", "data.min_size=1000000", "data.min_size", "32768"),
    override("a detector of one's own", "student.arch=mymod:Net", "student.arch", "is named by build: "),
    override("a backbone of one's own", "student.backbone=mymod:net", "student.backbone", "is named by build: "),
    Fault(
        "COCO that is a fifo",
        "train tiny.yaml data.dataset=mine.yaml",
        ("a.json", "fifo"),
        coco("", {}).files,
        fifo("a.json"),
        "detection",
    ),
    Fault(
        "an annotation that is a fifo",
        "train tiny.yaml",
        ("2007_000001.xml", "fifo"),
        prepare=fifo(XML),
        folder="detection",
    ),
    Fault(
        "a list that is a fifo",
        "train tiny.yaml",
        ("train.txt", "fifo"),
        prepare=fifo("data/ImageSets/Main/train.txt"),
        folder="detection",
    ),
    Fault(
        "check of a fifo among photos",
        "data check tiny.yaml",
        ("1 problem(s)",),
        prepare=fifo("data/JPEGImages/2007_000001.jpg"),
        folder="detection",
    ),
    Fault(
        "a teacher of classes in another order",
        "train distilled.yaml name=x teacher.checkpoint=runs/tiny data.dataset=turned.yaml",
        ("runs/tiny has 3 classes [", "the student 3 [", "in the same order"),
        prepare=turn_classes,
        folder="detection_run",
    ),
    Fault(
        "a map of classes in detection",
        "train distilled.yaml name=x teacher.checkpoint=runs/tiny teacher.class_map=[1,0,2]",
        ("teacher.class_map: in detection a teacher has the student's classes: leave it out",),
        folder="detection_run",
    ),
    Fault(
        "a teacher of another detector than its run",
        "train distilled.yaml name=x teacher.checkpoint=runs/tiny teacher.arch=fcos",
        ("teacher.arch: runs/tiny has 'gfl', not 'fcos'",),
        folder="detection_run",
    ),
    Fault(
        "a teacher of other options than its run",
        "train distilled.yaml name=x teacher.checkpoint=runs/tiny teacher.options.out_channels=96",
        ("teacher.options.out_channels: runs/tiny has 64, not 96",),
        folder="detection_run",
    ),
    Fault(
        "a teacher that is a run which is not there",
        "train distilled.yaml name=x teacher.checkpoint=runs/tyni",
        ("no run 'runs/tyni'", "did you mean 'runs/tiny'?"),
        folder="detection_run",
    ),
    Fault(
        "weights of a teacher without its architecture",
        "train distilled.yaml name=x teacher.checkpoint=runs/tiny/checkpoints/best.ckpt",
        ("teacher.arch is missing", "best.ckpt"),
        folder="detection_run",
    ),
]
