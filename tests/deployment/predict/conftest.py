from pathlib import Path

import pytest
import torch
from clips import CLASSES, COLORS, picture
from networks import detector as a_detector
from networks import segmenter
from PIL import Image


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a segmentation student that resizes to 64 x 96."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    normalization = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    block = {"recorded": {"colors": COLORS}, "size": [64, 96], "normalization": normalization}
    segmenter("Unet", "tu-mobilenetv3_small_050", CLASSES, **block).save(folder / "student")
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a detector that finds something everywhere."""
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    options = {"score_thresh": 0.0, "detections_per_img": 5}
    network = a_detector("retinanet", classes=CLASSES, recorded={"colors": COLORS}, options=options)
    # As built, all scores are 0.01 but for the last bits: which five are best would hang on the batch size.
    torch.nn.init.normal_(network.module.head.classification_head.cls_logits.weight, std=5e3)
    network.save(folder / "student")
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders of images with the same names and of several sizes."""
    folder = tmp_path_factory.mktemp("photos")
    for index, name in enumerate(("a/1.png", "a/2.png", "a/3.jpg", "b/1.png", "b/c/1.png")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(index, (50, 70) if index % 2 else (40, 30))).save(path)
    return folder
