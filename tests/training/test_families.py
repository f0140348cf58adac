"""Models of each family, named in a config: trained, measured, used and exported as students; read as teachers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
from experiments import segkd, train, write
from PIL import Image
from safetensors.torch import save_file

from segkd.deployment.formats import FORMATS

SEGFORMER = {
    "model_type": "segformer",
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}
STUDENTS: dict[str, dict[str, Any]] = {
    "torchvision": {"family": "torchvision", "arch": "lraspp_mobilenet_v3_large", "weights": None},
    "transformers": {"family": "transformers", "config": SEGFORMER},
}


def plain(experiment: Path, name: str, student: dict[str, Any], **more: Any) -> Path:
    common = {
        "name": name,
        "runs": str(experiment / "runs"),
        "data": {"dataset": "camvid/camvid.yaml", "crop": [64, 96], "batch_size": 2, "workers": 0},
        "student": student,
        "optimizer": {"name": "adamw", "lr": 0.001},
        "validation": {"every": 2, "pictures": 1},
        "trainer": {"max_steps": 2, "threads": 1, "accelerator": "cpu"},
    }
    return write(experiment / f"{name}.yaml", {**common, **more})


# In TorchScript the first, which takes a tenth of the time: as ONNX it is in tests/models/test_torchvision.py.
@pytest.mark.parametrize(("family", "format"), [("torchvision", "torchscript"), ("transformers", "onnx")])
def test_a_student_is_trained_resumed_measured_used_and_exported(experiment: Path, family: str, format: str):
    run = experiment / "runs" / family
    train(plain(experiment, family, STUDENTS[family]))
    train("--resume", run, "trainer.max_steps=3")
    measured = segkd("eval", run)
    assert measured.status == 0, measured.err
    score = json.loads((run / "result.json").read_text())["student"]["miou"]
    assert f"{100 * score:.2f}" in measured.out
    photo = experiment / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)).save(photo)
    for command in (("predict", run, photo, "--out", experiment / "found"), ("export", run, "--format", format)):
        outcome = segkd(*command)
        assert outcome.status == 0, outcome.err
    assert Image.open(experiment / "found/masks/photo.png").size == (90, 60)
    (file,) = (run / "export").iterdir()
    assert file.suffix == FORMATS[format].suffix


def test_teachers_of_other_families_beside_one_of_features(experiment: Path):
    train(plain(experiment, "big", STUDENTS["torchvision"]))
    sizes = {"depth": 2, "embed_dim": 24, "num_heads": 2}
    weights = experiment / "vit.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0, **sizes).state_dict(), weights)
    vit = {"family": "timm", "arch": "vit_tiny_patch16_224", "weights": str(weights), "options": sizes}
    terms = {
        "kd": {"loss": "pixel_kd", "teacher": "big:logits"},
        "features": {
            "loss": "cwd",
            "student": "decode_head.linear_fuse",
            "teacher": "vit:blocks.1",
            "connector": "conv1x1",
        },
    }
    teachers = {"big": {"checkpoint": str(experiment / "runs/big")}, "vit": vit}
    train(plain(experiment, "small", STUDENTS["transformers"], teachers=teachers, distill={"terms": terms}))
    result, of_big = (json.loads((experiment / f"runs/{run}/result.json").read_text()) for run in ("small", "big"))
    assert result["teachers"]["big"]["miou"] == of_big["student"]["miou"]
    assert "vit" not in result["teachers"]
