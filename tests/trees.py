"""Tiny data sets in the true layouts of Cityscapes, Pascal VOC, CamVid, streets, COCO and Pascal VOC detection.

Every ``make_*`` fills ``root`` and returns the path of a YAML that describes it, which goes wherever a data set is
named. The shipped names with ``root`` work as well, except streets, whose YAML says how many scenes there are. A mask
holds every raw id that its layout knows, as blocks; the image shows each id in a colour of its own with noise, so that
a model can learn it. Images with boxes show `things`; the last image of each split has none.
"""

import json
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image

from segkd.data.formats.masks import MaskFiles, Masks
from segkd.data.masks import Pair
from segkd.data.samples import Sample
from segkd.data.streets import Drawing, ensure_streets
from segkd.resources import resource_dir

SIZE = (64, 96)


def make_cityscapes(root: Path, size: tuple[int, int] = SIZE, train: int = 3, val: int = 2) -> Path:
    for split, city, count in (("train", "aachen", train), ("val", "frankfurt", val)):
        for index in range(count):
            raw = blocks(34, size, index)
            stem = f"{city}_{index:06d}_000019"
            _save(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png", picture(raw, index))
            _save(root / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", raw)
            # The download holds these too; they must be left alone.
            _save(root / "gtFine" / split / city / f"{stem}_gtFine_instanceIds.png", raw)
            _save(root / "gtFine" / split / city / f"{stem}_gtFine_color.png", picture(raw, 0))
    return _describe("cityscapes", root)


def make_voc(root: Path, size: tuple[int, int] = SIZE, train: int = 3, val: int = 2) -> Path:
    names = {
        "train": [f"2007_{index:06d}" for index in range(train)],
        "val": [f"2008_{index:06d}" for index in range(val)],
    }
    names["trainval"] = names["train"] + names["val"]
    names["trainaug"] = [*names["train"], "2010_000001"]
    for index, stem in enumerate([*names["trainval"], "2010_000001"]):
        raw = blocks(21, size, index)
        raw[size[0] // 2 - 1 : size[0] // 2 + 1] = 255  # the border that VOC draws around objects
        _save(root / "JPEGImages" / f"{stem}.jpg", picture(raw, index))
        if stem in names["trainval"]:
            _save(root / "SegmentationClass" / f"{stem}.png", raw, palette=True)
        if stem in names["trainaug"]:
            _save(root / "SegmentationClassAug" / f"{stem}.png", raw)
    for split, stems in names.items():
        listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("".join(f"{stem}\n" for stem in stems))
    return _describe("voc2012", root)


def make_camvid(root: Path, size: tuple[int, int] = SIZE, train: int = 3, val: int = 2) -> Path:
    for split, count in (("train", train), ("val", val)):
        for index in range(count):
            raw = blocks(12, size, index)
            _save(root / split / f"0001TP_{index:06d}.png", picture(raw, index))
            _save(root / f"{split}annot" / f"0001TP_{index:06d}.png", raw)
    return _describe("camvid", root)


def make_streets(root: Path, size: tuple[int, int] = SIZE, train: int = 3, val: int = 2) -> Path:
    ensure_streets(root, Drawing(train=train, val=val, size=size))
    return _describe("streets", root, drawing={"train": train, "val": val, "size": list(size), "seed": 0})


class Thing(NamedTuple):
    """An object that an image shows: a filled rectangle in its class's colour."""

    label: int
    box: tuple[int, int, int, int]  # xmin, ymin, xmax, ymax, half-open


def things(index: int, classes: int, size: tuple[int, int] = SIZE) -> list[Thing]:
    """Three rectangles side by side, of other classes and places for another ``index``."""
    width = size[1] // 3
    return [
        Thing((3 * index + k) % classes + 1, (k * width + 2 + index, 4 + k, (k + 1) * width - k, size[0] - 5 - index))
        for k in range(3)
    ]


def show(shown: list[Thing], size: tuple[int, int], seed: int) -> np.ndarray:
    raw = np.zeros(size, dtype=np.uint8)
    for label, (left, top, right, bottom) in shown:
        raw[top:bottom, left:right] = label
    return picture(raw, seed)


def make_coco(root: Path, size: tuple[int, int] = SIZE, train: int = 3, val: int = 2) -> Path:
    """COCO 2017: polygons, and in each split's first image a crowd as run lengths over its left half."""
    names = yaml.safe_load((resource_dir("datasets") / "coco.yaml").read_text())["classes"]
    # The order and the gaps of ids are those of no class list: only names can be right.
    categories = [{"id": 3 * label + 2, "name": names[label - 1]["name"]} for label in range(len(names), 0, -1)]
    for split, count in (("train", train), ("val", val)):
        images, annotations = [], []
        for index in range(count):
            shown = things(index, len(names), size) if index < count - 1 else []
            name = f"{1000 + 7 * index:012d}.jpg"
            _save(root / f"{split}2017" / name, show(shown, size, index))
            images.append({"id": 1000 + 7 * index, "file_name": name, "height": size[0], "width": size[1]})
            for label, (left, top, right, bottom) in shown:
                outline = [left, top, right, top, right, bottom, left, bottom]
                annotations.append(_coco_object(images[-1], label, (left, top, right, bottom), [outline], 0))
        half = size[1] // 2
        runs = {"size": list(size), "counts": [0, half * size[0], (size[1] - half) * size[0]]}
        annotations.append(_coco_object(images[0], 1, (0, 0, half, size[0]), runs, 1))
        for number, item in enumerate(annotations):
            item["id"] = 50 + number
        # The file lists annotations in no order of images.
        content = {"images": images, "annotations": annotations[::-1], "categories": categories}
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return _describe("coco", root)


def _coco_object(image: dict, label: int, box: tuple[int, int, int, int], shape: object, crowd: int) -> dict:
    left, top, right, bottom = box
    return {
        "image_id": image["id"],
        "category_id": 3 * label + 2,
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top) / 2,  # of the object, which COCO gives, not of the box
        "segmentation": shape,
        "iscrowd": crowd,
    }


def make_bccd(root: Path, size: tuple[int, int] = SIZE, train: int = 3, val: int = 2) -> Path:
    """BCCD, which has the layout of Pascal VOC."""
    return make_voc_detection(root, size, train, val, "bccd")


def make_voc_detection(
    root: Path, size: tuple[int, int] = SIZE, train: int = 3, val: int = 2, dataset: str = "voc_detection"
) -> Path:
    """Pascal VOC: corners count pixels from 1 and are both inside; the last object of each image is difficult."""
    names = yaml.safe_load((resource_dir("datasets") / f"{dataset}.yaml").read_text())["classes"]
    splits = {
        "train": [f"2007_{index:06d}" for index in range(train)],
        "val": [f"2008_{index:06d}" for index in range(val)],
    }
    for stems in splits.values():
        for index, stem in enumerate(stems):
            shown = things(index, len(names), size) if index < len(stems) - 1 else []
            _save(root / "JPEGImages" / f"{stem}.jpg", show(shown, size, index))
            write_voc(
                root / "Annotations" / f"{stem}.xml",
                size,
                [
                    (names[label - 1]["name"], (left + 1, top + 1, right, bottom), k == len(shown) - 1)
                    for k, (label, (left, top, right, bottom)) in enumerate(shown)
                ],
            )
    splits["trainval"] = splits["train"] + splits["val"]
    for split, stems in splits.items():
        listing = root / "ImageSets" / "Main" / f"{split}.txt"
        listing.parent.mkdir(parents=True, exist_ok=True)
        listing.write_text("".join(f"{stem}\n" for stem in stems))
    return _describe(dataset, root)


def write_voc(path: Path, size: tuple[int, int], objects: list[tuple[str, tuple[float, ...], bool]]) -> None:
    """Write one XML file: of each object its class, corners as the file counts them, and whether it is difficult."""
    tree = ElementTree.Element("annotation")
    ElementTree.SubElement(tree, "filename").text = f"{path.stem}.jpg"
    extent = ElementTree.SubElement(tree, "size")
    for key, value in zip(("width", "height", "depth"), (size[1], size[0], 3), strict=True):
        ElementTree.SubElement(extent, key).text = str(value)
    for name, corners, difficult in objects:
        thing = ElementTree.SubElement(tree, "object")
        ElementTree.SubElement(thing, "name").text = name
        ElementTree.SubElement(thing, "difficult").text = str(int(difficult))
        bounds = ElementTree.SubElement(thing, "bndbox")
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            ElementTree.SubElement(bounds, key).text = str(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree.ElementTree(tree).write(path)


def blocks(count: int, size: tuple[int, int], shift: int = 0) -> np.ndarray:
    """Ids 0 to count - 1 as vertical stripes in two rows, in another order for another ``shift``."""
    half = (count + 1) // 2
    columns = np.minimum(np.arange(size[1]) * half // size[1], half - 1)
    raw = np.stack([columns, columns + half]).repeat((size[0] // 2, size[0] - size[0] // 2), axis=0)
    return ((raw + shift) % count).astype(np.uint8)


def picture(raw: np.ndarray, seed: int) -> np.ndarray:
    colors = np.random.default_rng(7).integers(30, 226, (256, 3))
    noise = np.random.default_rng(seed).integers(-25, 26, (*raw.shape, 3))
    return (colors[raw] + noise).astype(np.uint8)


def read_pair(pair: Pair, spec: Masks) -> Sample:
    """Read an image with its mask."""
    return MaskFiles(spec, "", [pair]).read(0)


def read_mask(path: Path, spec: Masks) -> np.ndarray:
    """Read a mask alone."""
    return MaskFiles(spec, "", []).read_mask(path)


def _save(path: Path, pixels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image = Image.fromarray(pixels, mode="P")
        # A palette that differs from the indices in every entry: reading colours instead of indices cannot pass.
        image.putpalette([(7 * entry + 13 * channel + 5) % 256 for entry in range(256) for channel in range(3)])
    image.save(path)


def _describe(name: str, root: Path, **changes: object) -> Path:
    content = yaml.safe_load((resource_dir("datasets") / f"{name}.yaml").read_text())
    path = root / f"{name}.yaml"
    path.write_text(yaml.safe_dump({**content, "root": ".", **changes}, sort_keys=False))
    return path
