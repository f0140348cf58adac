"""Faults of data sets for segmentation, and of their descriptions."""

from typing import Any

import numpy as np
from PIL import Image

from faults.hostile import BOMB
from faults.row import Fault, fifo, remove

SPLITS = {
    "train": {"images": "train/*.png", "masks": "trainannot/*.png"},
    "val": {"images": "val/*.png", "masks": "valannot/*.png"},
}
COLORS = [{"name": f"class_{index}", "color": [index, 0, 0]} for index in range(12)]
SET = {"name": "mine", "root": "data", "splits": SPLITS, "classes": COLORS}


def described(name: str, content: Any, *texts: str, seconds: float = 10.0) -> Fault:
    """Return the row of a data set's description mine.yaml, which is named."""
    return Fault(
        name, "train tiny.yaml data.dataset=mine.yaml", ("mine.yaml", *texts), {"mine.yaml": content}, seconds=seconds
    )


FAULTS = [
    described("an unknown key of a data set", {**SET, "nmae": "x"}, "did you mean 'name'?"),
    described("a class without colour", {**SET, "classes": [{"name": "cat"}]}, "classes.0.color"),
    described("an unknown key of a class", {**SET, "classes": [{**COLORS[0], "colr": 1}]}, "did you mean 'color'?"),
    described(
        "a colour above 255", {**SET, "classes": [{"name": "cat", "color": [1, 2, 300]}]}, "classes.0.color", "300"
    ),
    described("two classes of one name", {**SET, "classes": COLORS[:1] * 2}, "'class_0'", "twice"),
    described("a data set without classes", {**SET, "classes": []}, "classes"),
    described("a data set without splits", {**SET, "splits": {}}, "splits"),
    described("a data set that is a list", "- a\n", "list"),
    described("a data set that is empty", ""),
    described("a data set that is no YAML", "classes: [", "YAML"),
    described("a data set in bytes", b"\xff\xfe\x00", "YAML"),
    described("a data set that names code", "name: !!python/object/apply:os.system ['exit 1']\n", "YAML"),
    described("an ignored id that is a class", {**SET, "ignore_index": 3}, "ignore_index"),
    described("an ignored id above 255", {**SET, "ignore_index": 256}, "ignore_index"),
    described("a label map to no class", {**SET, "label_map": {0: 12}}, "label_map", "12"),
    described("a label map of words", {**SET, "label_map": {"cat": 1}}, "label_map"),
    described("a pattern without star", {**SET, "splits": {"train": {"images": "a.png", "masks": "b.png"}}}, "*"),
    described(
        "a pattern with two stars", {**SET, "splits": {"train": {"images": "**/*.png", "masks": "b/*.png"}}}, "*"
    ),
    described("patterns of unlike stars", {**SET, "splits": {"train": {"images": "*/*.png", "masks": "b/*.png"}}}, "*"),
    described("a data set for detection", {**SET, "format": "coco"}, "format", "detection"),
    Fault(
        "an image of more pixels than are allowed",
        "train tiny.yaml data.max_pixels=6143",
        (".png has 6144 pixels (96x64)", "data.max_pixels=6143"),
    ),
    Fault("a limit of no pixels", "train tiny.yaml data.max_pixels=0", ("data.max_pixels",)),
    Fault(
        "an image without mask",
        "train tiny.yaml",
        ("train/0001TP_000001.png", "no mask"),
        prepare=remove("data/trainannot/0001TP_000001.png"),
    ),
    Fault(
        "a labelled image of another suffix",
        "train tiny.yaml",
        ("train/0001TP_000001.JPEG has a mask", 'write "train/*.{png,jpeg}"'),
        prepare=lambda here: (here / "data/train/0001TP_000001.png").rename(here / "data/train/0001TP_000001.JPEG"),
    ),
    Fault(
        "two images that differ in their suffix only",
        "train tiny.yaml",
        ("train/0001TP_000001.PNG and data/train/0001TP_000001.png", "keep one"),
        {"data/train/0001TP_000001.PNG": b"x"},
    ),
    described(
        "braces around folders", {**SET, "splits": {"train": {"images": "{a,b}/*.png", "masks": "*.png"}}}, "braces"
    ),
    Fault(
        "check finds a JPEG by the name of a PNG among the masks",
        "data check tiny.yaml",
        ("1 problem(s)",),
        prepare=lambda here: Image.new("L", (96, 64)).save(here / "data/trainannot/0001TP_000000.png", format="JPEG"),
    ),
    Fault(
        "a JPEG by the name of a PNG among the masks",
        "data show tiny.yaml --split val",
        ("mask data/valannot/0001TP_000000.png is a JPEG inside", "as PNG"),
        prepare=lambda here: Image.new("L", (96, 64)).save(here / "data/valannot/0001TP_000000.png", format="JPEG"),
    ),
    Fault(
        "a mask with a colour of no class",
        "data show tiny.yaml --split val",
        ("mask data/valannot/0001TP_000000.png: 6144 pixels have the colour [1, 2, 3]", "'camvid'", "ignore_colors"),
        prepare=lambda here: Image.new("RGB", (96, 64), (1, 2, 3)).save(here / "data/valannot/0001TP_000000.png"),
    ),
    described("masks of neither ids nor colours", {**SET, "masks": "colours"}, "masks", "'colors'"),
    described(
        "two classes of one colour",
        {**SET, "masks": "colors", "classes": [COLORS[0], {**COLORS[0], "name": "x"}]},
        "'class_0' and 'x' share the colour [0, 0, 0]",
    ),
    described("a colour to ignore that is a class's", {**SET, "ignore_colors": [[3, 0, 0]]}, "'class_3'"),
    described("one class alone", {**SET, "classes": COLORS[:1]}, "class_0", "mIoU 100", "background"),
    Fault(
        "one class alone in all masks",
        "train tiny.yaml data.dataset=mine.yaml",
        ("mine train: class 'class_1' has no pixel in any of", "label_map: {0: 0, 255: 1}"),
        {"mine.yaml": {**SET, "classes": COLORS[:2]}},
        prepare=lambda here: [
            Image.fromarray(np.array([[0, 255]], np.uint8).repeat(64, 0).repeat(48, 1)).save(path)
            for path in here.glob("data/*annot/*.png")
        ],
    ),
    Fault("an empty split", "train tiny.yaml", ("val", "no image matches"), prepare=remove("data/val")),
    Fault("a folder that is not there", "train tiny.yaml", ("no folder", "data"), prepare=remove("data")),
    Fault(
        "check finds a mask of another size",
        "data check tiny.yaml",
        ("1 problem(s)",),
        prepare=lambda here: Image.new("L", (4, 4)).save(here / "data/trainannot/0001TP_000000.png"),
    ),
    Fault(
        "check finds ids of no class",
        "data check tiny.yaml",
        ("1 problem(s)",),
        prepare=lambda here: Image.fromarray(np.full((64, 96), 99, np.uint8)).save(
            here / "data/trainannot/0001TP_000001.png"
        ),
    ),
    Fault(
        "check finds a torn image",
        "data check tiny.yaml",
        ("1 problem(s)",),
        {"data/train/0001TP_000002.png": b"\x89PNG broken"},
    ),
    Fault(
        "check finds an empty file", "data check tiny.yaml", ("1 problem(s)",), {"data/train/0001TP_000002.png": b""}
    ),
    described(
        "classes as names alone",
        {**SET, "classes": ["a", "b"]},
        "classes.0: expected keys and values such as {name: ..., color: ...}, got 'a'",
    ),
    described("classes as a number", {**SET, "classes": 3}, "classes: expected a list, got 3"),
    described(
        "a colour as a word",
        {**SET, "classes": [{"name": "a", "color": "red"}]},
        "classes.0.color: expected [red, green, blue], got 'red'",
    ),
    described(
        "a colour of two numbers",
        {**SET, "classes": [{"name": "a", "color": [1, 2]}]},
        "classes.0.color: expected [red, green, blue], got [1, 2]",
    ),
    described(
        "a colour of true", {**SET, "classes": [{"name": "a", "color": [True, 2, 3]}]}, "classes.0.color", "true"
    ),
    described(
        "a class called no",
        "name: x\nclasses: [{name: no, color: [1, 2, 3]}]\nsplits: {train: {images: a*, masks: b*}}\n",
        "classes.0.name: expected text, got false",
    ),
    described("splits as a list", {**SET, "splits": ["train"]}, "splits"),
    described(
        "a split as a word", {**SET, "splits": {"train": "train/*.png"}}, "splits.train", "{images: ..., masks: ...}"
    ),
    described("an ignored id of true", {**SET, "ignore_index": True}, "ignore_index", "true"),
    described("a root with NUL", {**SET, "root": "a\0b"}, "root", "NUL"),
    described("a root that is too long", {**SET, "root": "a" * 300}, "root", "255"),
    described("a raw id twice", "name: x\nlabel_map: {1: 1, 1: 2}\n", "line 2", "'label_map.1'", "twice"),
    described(
        "a class's key twice",
        "name: x\nclasses:\n  - {name: a, color: [1, 2, 3], name: b}\n",
        "line 3",
        "'classes.0.name'",
        "twice",
    ),
    described(
        "a split twice",
        "name: x\nsplits:\n  train: {images: a*, masks: b*}\n  train: {images: c*, masks: b*}\n",
        "line 4",
        "'splits.train'",
        "line 3",
    ),
    described("an alias bomb of classes", BOMB, "more than 50000", seconds=2),
    described(
        "sixty thousand keys of a data set",
        "".join(f"key{i}: 1\n" for i in range(60_000)),
        "more than 50000 keys",
        seconds=2,
    ),
    described("a data set that nests deeply", f"name: {'[' * 3000}{']' * 3000}\n", "nest", seconds=2),
    described("a data set of itself", "name: &a [*a]\n", "refers to itself", seconds=2),
    Fault(
        "a data set that is a fifo",
        "train tiny.yaml data.dataset=mine.yaml",
        ("mine.yaml", "fifo"),
        prepare=fifo("mine.yaml"),
        seconds=2,
    ),
    Fault("a data set that is a folder", "train tiny.yaml data.dataset=./data", ("data", "a folder")),
    Fault(
        "a data set that is a device", "train tiny.yaml data.dataset=/dev/zero", ("/dev/zero", "a device"), seconds=2
    ),
    Fault(
        "check of a fifo among the images",
        "data check tiny.yaml",
        ("1 problem(s)",),
        prepare=fifo("data/train/0001TP_000001.png"),
    ),
    Fault(
        "check of a fifo among the masks",
        "data check tiny.yaml",
        ("1 problem(s)",),
        prepare=fifo("data/trainannot/0001TP_000001.png"),
    ),
    Fault(
        "a fifo among the masks",
        "train tiny.yaml",
        ("0001TP_000001.png",),
        prepare=fifo("data/trainannot/0001TP_000001.png"),
    ),
    Fault(
        "show of a fifo among the images",
        "data show tiny.yaml",
        ("0001TP_000001.png", "fifo"),
        prepare=fifo("data/train/0001TP_000001.png"),
    ),
    Fault(
        "a fifo among the images",
        "train tiny.yaml validation.pictures=1",
        ("val/0001TP_000000.png", "fifo"),
        prepare=fifo("data/val/0001TP_000000.png"),
    ),
    Fault(
        "an empty list",
        "train tiny.yaml data.dataset=mine.yaml",
        ("mine train: list data/list.txt is empty",),
        {
            "mine.yaml": {**SET, "splits": {**SPLITS, "train": {**SPLITS["train"], "list": "list.txt"}}},
            "data/list.txt": "\n",
        },
    ),
    Fault(
        "check of a raw id twice",
        "data check mine.yaml",
        ("mine.yaml", "line 2", "'label_map.1'"),
        {"mine.yaml": "name: x\nlabel_map: {1: 1, 1: 2}\nsplits: {}\n"},
    ),
    Fault(
        "check of an alias bomb",
        "data check mine.yaml",
        ("mine.yaml", "more than"),
        {"mine.yaml": BOMB + "splits: {}\n"},
        seconds=2,
    ),
]
