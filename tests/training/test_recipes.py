"""Every config of a published recipe trains what its quoted figure belongs to, and says where it departs from it."""

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segkd.detection.models import build_detector
from segkd.segmentation.inference import size_multiple
from segkd.training.config import load_config, shipped_configs
from segkd.training.schema import Config
from segkd.training.tasks import task_of
from segkd.training.teacher import teacher_configs

LARGE = ("cityscapes_", "coco_", "voc2012_")
RECIPES = [path.stem for path in shipped_configs() if path.stem.startswith(LARGE)]
SEGMENTATION = [name for name in RECIPES if not name.startswith("coco_")]
AICSD = ["cityscapes_half_teacher", "cityscapes_icsd", "voc2012_icsd", "voc2012_teacher"]
IMAGES = {"cityscapes": 2975, "voc2012": 10582}
CLASSES = {"cityscapes": 19, "voc2012": 21}


def header(name: str) -> list[str]:
    """The lines of a config's first comment, without the sign."""
    (path,) = (path for path in shipped_configs() if path.stem == name)
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in itertools.takewhile(lambda line: line.startswith("#"), lines)]


def text(name: str) -> str:
    return " ".join(header(name))


def images_per_step(config: Config) -> int:
    assert isinstance(config.trainer.devices, int)
    return config.data.batch_size * config.trainer.devices * config.trainer.num_nodes * config.trainer.accumulate


def value(config: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        config = config[key] if isinstance(config, dict) else getattr(config, key)
    return config


def test_who_quotes_a_published_figure_lists_where_it_departs():
    quoting = [path.stem for path in shipped_configs() if re.search(r"\bPublished\b[^.]*:", text(path.stem))]
    assert quoting == RECIPES
    for name in quoting:
        lines = header(name)
        start = lines.index("Departs from the published recipe:")
        departures = list(itertools.takewhile(lambda line: line.startswith("- "), lines[start + 1 :]))
        assert departures, name
        assert all(line.endswith(".") for line in departures), name
        assert lines[start + 1 + len(departures)].startswith("Needs: "), name


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("coco_")])
def test_the_schedule_is_the_one_named(name: str):
    config = load_config(name)
    factor = int(re.search(r"\b(\d)x schedule\b", text(name))[1])  # type: ignore[index]
    assert config.trainer.max_steps == factor * 90000
    # MMDetection's epochs: 8 and 11 of 12, 16 and 22 of 24, 27 and 33 of 36.
    epochs = {1: [8, 11], 2: [16, 22], 3: [27, 33]}[factor]
    assert config.optimizer.milestones == [epoch * 7500 for epoch in epochs]


@pytest.mark.parametrize("name", RECIPES)
def test_images_per_step_and_gpus_are_those_named(name: str):
    config, said = load_config(name), text(name)
    expected = 6 if name in AICSD else 16
    assert images_per_step(config) == expected
    gpus = re.search(r"Needs: .*, (a|\d) GPUs?(?:\.$|, or one with (\S+) (\S+)\.$)", said)
    assert gpus is not None
    assert config.trainer.devices == (1 if gpus[1] == "a" else int(gpus[1]))
    if gpus[2]:
        one = load_config(name, [gpus[2], gpus[3]])
        teacher = teacher_configs(one).get("teacher")
        for changed in (one, *([] if teacher is None else [teacher])):
            assert changed.trainer.devices == 1
            assert images_per_step(changed) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_the_teacher_is_the_one_whose_figure_is_quoted(name: str):
    config = load_config(name)
    if config.teacher is None:
        assert "teaches" not in text(name)
        return
    own = teacher_configs(config).get("teacher")
    assert own is not None
    assert own.data.dataset == config.data.dataset
    quoted = re.search(r"Published.*?: teacher ([\d.]+\d)", text(name))
    if quoted:
        assert quoted[1] in text(Path(str(config.teacher.config)).stem)


@pytest.mark.parametrize("name", AICSD)
def test_aicsd(name: str):
    config = load_config(name)
    dataset = config.data.dataset
    assert config.trainer.max_steps == pytest.approx(120 * IMAGES[dataset] / 6, abs=1)
    assert config.distill.task_weight == pytest.approx(1 / 6, abs=1e-5)
    rate = 0.01 if dataset == "cityscapes" else 0.007
    assert (config.optimizer.encoder_lr, config.optimizer.lr) == (rate, 10 * rate)
    if config.teacher is not None:
        assert config.distill.build_terms()["kd"].weight == pytest.approx(10 / CLASSES[dataset], abs=1e-3)
        alone = load_config(name, ["teacher=null", "distill.terms=null", "distill.schedule=null"])
        assert alone.distill.task_weight == config.distill.task_weight


FCOS = {
    "data.min_size": [640, 800],
    "trainer.gradient_clip": 35,
    "optimizer.bias_lr_factor": 2,
    "optimizer.bias_weight_decay": 0,
    "student.norm": "frozen",
    "student.options.nms_thresh": 0.5,
}
COCO = {"optimizer.lr": 0.01, "optimizer.weight_decay": 1e-4, "student.norm": "eval", "trainer.gradient_clip": None}
CIRKD = {
    "optimizer.lr": 0.02,
    "optimizer.encoder_lr": None,
    "optimizer.weight_decay": 1e-4,
    "data.color_jitter": 0,
    "data.crop": (512, 1024),
    "trainer.max_steps": 40000,
    "student.auxiliary_weight": 0.4,
}


@pytest.mark.parametrize(
    ("names", "facts"),
    [
        (["coco_fcos_r101", "coco_crosskd_fcos"], FCOS),
        (["coco_retinanet_r101", "coco_crosskd_retinanet", "coco_pkd_maskrcnn_retinanet"], COCO),
        (["coco_crosskd_gfl_r101_r50", "coco_pkd_crosskd_gfl"], {**COCO, "data.min_size": 800}),
        (["coco_gfl_r101"], {**COCO, "data.min_size": [480, 800], "data.min_size_sampling": "range"}),
        (["coco_maskrcnn_swin"], {"student.backbone": "swin_s", "optimizer.weight_decay": 0.05}),
        (["cityscapes_rdd", "cityscapes_teacher"], CIRKD),
        (AICSD, {"optimizer.weight_decay": 5e-4, "data.blur": 0.5, "data.color_jitter": 0, "data.crop": (512, 512)}),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_what_is_published(names: list[str], facts: dict[str, Any]):
    for name in names:
        config = load_config(name)
        assert {key: value(config, key) for key in facts} == facts, name


def test_fcos_matches_all_points_in_a_box_and_not_those_near_its_centre_alone(monkeypatch: pytest.MonkeyPatch):
    options = load_config("coco_fcos_r101").student.options
    detector: Any = build_detector("fcos", "resnet18", 3, min_size=256, max_size=256, options=options)
    matched: list[Tensor] = []

    def compute_loss(targets: Any, outputs: Any, anchors: list[Tensor], indices: list[Tensor]) -> dict[str, Tensor]:
        matched.extend((anchors[0], indices[0]))
        return {}

    monkeypatch.setattr(detector.head, "compute_loss", compute_loss)
    left, top, right, bottom = 10.0, 20.0, 100.0, 60.0
    target = {"boxes": torch.tensor([[left, top, right, bottom]]), "labels": torch.tensor([1])}
    detector([torch.zeros(3, 256, 256)], [target])
    points, found = matched
    strides, (x, y) = points[:, 2] - points[:, 0], (points[:, :2] + points[:, 2:]).T / 2
    sides = torch.stack([x - left, y - top, right - x, bottom - y])
    # As published: each level has the boxes whose farthest side lies within its range.
    of_level = (sides.amax(0) < 8 * strides) & ((sides.amax(0) > 4 * strides) | (strides == 8))
    expected = (sides.amin(0) > 0) & of_level
    assert expected.sum() == 33  # 11 with torchvision's radius of 1.5
    assert torch.equal(found >= 0, expected)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_the_model_takes_the_crop(name: str):
    config: Any = load_config(name, ["student.encoder=resnet18"])  # any other takes longer to make
    multiple = size_multiple(task_of(config).student(weights=False))
    assert multiple > 1
    assert [pixels % multiple for pixels in config.data.crop] == [0, 0]
