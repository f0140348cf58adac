"""Tiny data sets in the true layouts of Cityscapes, Pascal VOC, CamVid and streets.

Every ``make_*`` fills ``root`` and returns the path of a YAML that describes it, which goes wherever a data set is
named. The shipped names with ``root`` work as well, except streets, whose YAML says how many scenes there are. A mask
holds every raw id that its layout knows, as blocks; the image shows each id in a colour of its own with noise, so that
a model can learn it.
"""

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from segkd.resources import resource_dir
from segkd.segmentation.streets import write_streets

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
    write_streets(root, train=train, val=val, size=size)
    return _describe("streets", root, drawing={"train": train, "val": val, "size": list(size), "seed": 0})


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
