"""Every data set, config and part of a config in README and docs is one that can be read, and distils."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pages import PAGES, Block, blocks, cases
from PIL import Image

from segkd.data.check import check_dataset
from segkd.data.description import read_spec
from segkd.registry import things
from segkd.resources import resource_dir
from segkd.training.config import dump_config, load_config
from segkd.training.schema import Config
from segkd.training.tasks import task_of
from segkd.training.teacher import TeachersOf


def step(config: Config) -> torch.Tensor:
    """Return the loss of one step of what a config distils, on random images."""
    task = task_of(config)
    distiller = task.distiller(task.student(weights=False), TeachersOf(task, {}).networks)
    if config.task == "detection":
        images: Any = [torch.rand(3, 64, 96)] * 2
        target: Any = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 50.0]]), "labels": torch.tensor([1])}] * 2
    else:
        images, target = torch.rand(2, 3, 64, 64), torch.randint(0, len(task.class_names), (2, 64, 64))
    loss = distiller(images, target, progress=0.5).loss
    loss.backward()
    return loss


SEGMENTER = {"arch": "DeepLabV3Plus", "encoder": "resnet18"}
DETECTOR = {"arch": "gfl", "backbone": "resnet18", "options": {"out_channels": 64}}
BASES: dict[str, dict[str, Any]] = {
    "segmentation": {
        "name": "base",
        "data": {"dataset": "camvid", "crop": [64, 64]},
        "student": SEGMENTER,
        "teacher": {**SEGMENTER, "checkpoint": "not-read.pth"},
    },
    "detection": {
        "task": "detection",
        "name": "base",
        "data": {"dataset": "bccd", "min_size": 64, "max_size": 96},
        "student": DETECTOR,
        "teacher": {**DETECTOR, "checkpoint": "not-read.pth"},
    },
}
"""What a fragment of a config is merged into."""


def draw(content: dict[str, Any], root: Path) -> None:
    """Write two images with labels into each split of a data set, where its description says."""
    for split in content["splits"].values():
        if content.get("format") == "yolo":
            for index in range(2):
                path = root / split["annotations"].replace("*", str(index))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{index} 0.5 0.5 0.25 0.5\n")
            patterns = {split["images"]: 3}
        elif "format" in content:
            assert content["format"] in ("coco", "coco_masks")
            things = [{"id": index, "name": item["name"]} for index, item in enumerate(content["classes"])]
            images = [{"id": index, "file_name": f"{index}.png", "height": 64, "width": 96} for index in range(2)]
            thing = {"bbox": [8, 8, 20, 30], "segmentation": [[8, 8, 28, 8, 28, 38, 8, 38]], "iscrowd": 0}
            boxes = [{**thing, "id": i, "image_id": i, "category_id": i} for i in range(2)]
            path = root / split["annotations"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"images": images, "categories": things, "annotations": boxes}))
            patterns = {f"{split['images']}/*.png": 3}
        else:
            patterns = {split["images"]: 3, split["masks"]: 1}
        ids = list(content.get("label_map") or range(len(content["classes"])))
        for pattern, channels in patterns.items():
            for index in range(2):
                path = root / pattern.replace("*", str(index))
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = np.resize(np.array(ids, np.uint8), (64, 96, channels))
                Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(path)


@pytest.mark.parametrize("block", cases(blocks("yaml")))
def test_yaml(block: Block, tmp_path: Path):
    content = yaml.safe_load(block.text)
    if "splits" in content:  # a data set
        path = tmp_path / "set.yaml"
        path.write_text(block.text)
        draw(content, tmp_path / "data")
        assert check_dataset(read_spec(path), tmp_path / "data").problems == []
    elif "base" in content or {"name", "student"} <= content.keys():  # a whole config, beside the shipped ones
        shutil.copytree(resource_dir("configs"), tmp_path / "configs")
        path = tmp_path / "configs" / "own.yaml"
        path.write_text(block.text)
        assert load_config(str(path)).name == content["name"]
    else:  # a part of a config
        base, part = tmp_path / "base.yaml", tmp_path / "part.yaml"
        for module in blocks("python"):  # what the page has beside its configs
            if name := re.match(r"# (my_\w+\.py)\n", module.text):
                (tmp_path / name[1]).write_text(module.text)
        base.write_text(yaml.safe_dump(BASES[content.get("task", "segmentation")]))
        part.write_text(yaml.safe_dump({"base": "base.yaml", **content}))
        config = load_config(str(part))
        assert torch.isfinite(step(config))
        assert dump_config(config) != dump_config(load_config(str(base)))


@pytest.mark.parametrize("name", things("loss"))
def test_a_loss_has_its_section_with_the_weight_that_it_says(name: str):
    page = next(page for page in PAGES if page.name == "methods.md")
    parts = [yaml.safe_load(block.text) for block in blocks("yaml") if block.page == page]
    terms = [term for part in parts for term in part.get("distill", {}).get("terms", {}).values()]
    assert things("loss")[name].says["default_weight"] in [term.get("weight") for term in terms if term["loss"] == name]
    assert things("loss")[name].says["paper"].removeprefix("arXiv ") in page.read_text()
