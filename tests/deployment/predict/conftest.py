from pathlib import Path

import pytest
import torch
from clips import CLASSES, COLORS, picture
from PIL import Image

from segkd.detection.models import build_detector
from segkd.detection.student import save_student as save_detector
from segkd.segmentation.models import build_model
from segkd.segmentation.student import save_student


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a segmentation student that resizes to 64 x 96."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    info = {"classes": CLASSES, "colors": COLORS, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "size": [64, 96]}
    save_student(build_model("Unet", "tu-mobilenetv3_small_050", 4), folder / "student", info=info)
    return folder


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a detector that finds something everywhere."""
    folder = tmp_path_factory.mktemp("detector")
    torch.manual_seed(0)
    options = {"out_channels": 64, "score_thresh": 0.0, "detections_per_img": 5}
    model = build_detector("retinanet", "mobilenet_v3_small", 4, min_size=64, max_size=96, options=options)
    # As built, all scores are 0.01 but for the last bits: which five are best would hang on the batch size.
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=5e3)
    save_detector(model, folder / "student", info={"classes": CLASSES, "colors": COLORS})
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
