from pathlib import Path

import pytest
import torch
from experiments import same
from torch import nn

from segkd.errors import SegkdError
from segkd.models.auxiliary import WithAuxiliary
from segkd.models.saved import load_student
from segkd.models.smp import build_model, normalization
from segkd.segmentation.metrics import SegmentationMetrics
from segkd.training.config import load_config
from segkd.training.segmentation.schema import Config
from segkd.training.segmentation.task import SegmentationTask, model_normalization, normalize
from segkd.training.task import BuiltTeacher
from segkd.training.teacher import teacher_config


@pytest.fixture
def task(experiment: Path) -> SegmentationTask:
    config = load_config(str(experiment / "distilled.yaml"))
    assert isinstance(config, Config)
    return SegmentationTask(config)


def test_sets(task: SegmentationTask):
    assert (len(task.train_set()), len(task.val_set())) == (5, 3)
    task.config.validation.resize = (32, 48)
    item = task.val_set()[0]
    assert (item["image"].shape, item["mask"].shape) == ((3, 32, 48), (64, 96))


def test_a_limit_spreads_over_the_training_split(task: SegmentationTask):
    everything = task.train_set()
    task.config.data.limit = 3
    few = task.train_set()
    assert (len(everything), len(few), len(task.val_set())) == (5, 3, 3)
    assert few.indices == [0, 2, 4]
    task.config.data.limit = 99
    assert task.train_set().indices == everything.indices


def test_the_students_weights_follow_from_the_seed(task: SegmentationTask):
    first = task.student().state_dict()
    assert same(first, task.student().state_dict())
    task.config.seed = 8
    assert not same(first, task.student().state_dict())


def test_an_auxiliary_head_leaves_the_seeds_weights_alone(task: SegmentationTask):
    plain = task.student()
    task.config.student.auxiliary = True
    headed = task.student()
    assert isinstance(headed, WithAuxiliary)
    assert same(headed.model.state_dict(), plain.state_dict())


def test_normalization_is_the_encoders_unless_given(task: SegmentationTask, tmp_path: Path):
    config = task.config
    assert model_normalization(config.student) == normalization(config.student.encoder, None)
    student = {**config.student.model_dump(), "normalization": {"mean": [0.5] * 3, "std": [1] * 3}}
    changed = SegmentationTask(Config.model_validate({**config.model_dump(), "student": student}))
    assert model_normalization(changed.config.student) == ((0.5,) * 3, (1.0,) * 3)
    changed.save_student(changed.student(), tmp_path / "student")
    assert load_student(tmp_path / "student").info["mean"] == [0.5] * 3


def test_normalizes_bytes():
    images = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    normalized = normalize(images, ((0.5, 0.25, 0.0), (0.5, 0.25, 1.0)))
    assert normalized.flatten().tolist() == pytest.approx([1.0, -1.0, 0.2])


def test_the_distiller_is_what_the_config_says(task: SegmentationTask):
    student, teacher = task.student(), task.teacher(teacher_config(task.config))
    distiller = task.distiller(student, teacher)
    assert distiller.student is student
    assert distiller.teacher is teacher.model
    assert list(distiller.terms) == ["icsd", "kd"]
    assert set(distiller.schedule) == {"task", "icsd", "kd"}
    out = distiller(torch.randn(2, 3, 64, 96), torch.full((2, 64, 96), task.spec.ignore_index), progress=0.5)
    assert out.weights == pytest.approx({"task": 0.5, "icsd": 0.005, "kd": 0.5})
    assert torch.isfinite(out.loss)


def test_the_task_loss_has_the_configs_weight(task: SegmentationTask):
    task.config.distill.task_weight = 0.25
    distiller = task.distiller(task.student(), task.teacher(teacher_config(task.config)))
    out = distiller(torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.long), progress=0.5)
    assert out.weights["task"] == pytest.approx(0.125)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_crop_that_a_model_does_not_take(experiment: Path, side: str):
    task = SegmentationTask(load_config(str(experiment / "tiny.yaml"), ["data.crop=[65,10]"]))
    any_size, deeplab = nn.Conv2d(3, 4, 1), build_model("DeepLabV3Plus", "resnet18", 4)
    models = (deeplab, any_size) if side == "student" else (any_size, deeplab)
    with pytest.raises(SegkdError) as raised:
        task.distiller(models[0], BuiltTeacher(models[1], "", normalization("resnet18")))
    assert str(raised.value) == (
        f"tiny: data.crop: the {side} takes heights and widths that are multiples of 16, such as [64, 16], got [65, 10]"
    )


def test_the_teacher_has_its_own_normalization(task: SegmentationTask):
    model = nn.Conv2d(3, task.spec.num_classes, 1)
    distiller = task.distiller(task.student(), BuiltTeacher(model, "", ((0.0,) * 3, (1.0,) * 3)))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in model_normalization(task.config.student))
    raw = torch.rand(1, 3, 8, 8)
    _, for_teacher, _ = distiller.adapter.inputs((raw - mean) / std)
    assert torch.allclose(for_teacher, raw, atol=1e-6)


def test_without_a_teacher_it_is_the_task_loss_alone(experiment: Path):
    task = SegmentationTask(load_config(str(experiment / "tiny.yaml")))
    distiller = task.distiller(task.student(), None)
    out = distiller(torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.long))
    assert list(out.terms) == ["task"]
    assert float(out.loss.detach()) == pytest.approx(float(out.terms["task"]))


def test_scalars_name_the_classes(task: SegmentationTask):
    measured = task.metrics().compute()
    measured["iou"][-1] = 0.75
    scalars = task.scalars({**measured, "miou": 0.5})
    assert (scalars["val/miou"], scalars["iou/bicyclist"]) == (0.5, 0.75)
    assert len(scalars) == 3 + task.spec.num_classes


def test_the_teachers_predictions_are_counted_in_the_students_classes(task: SegmentationTask):
    model = nn.Conv2d(3, 2, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([0.0, 9.0]))  # always its second class, the student's first
    teacher = BuiltTeacher(model, "", ((0.0,) * 3, (1.0,) * 3), class_map=[1, 0])
    metrics = SegmentationMetrics(2)
    batch = {"image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "mask": torch.zeros(1, 8, 8, dtype=torch.long)}
    task.count(metrics, model, batch, teacher)
    assert metrics.compute()["pixel_accuracy"] == 1.0


def test_sliding_uses_the_crop_unless_a_window_is_given(task: SegmentationTask):
    model = build_model("Unet", "resnet18", 2, None).eval()
    images, target = torch.randn(1, 3, 64, 192), torch.zeros(1, 64, 192, dtype=torch.long)
    seen: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[-2:])))
    task.config.validation.mode = "sliding"
    assert task.predict(model, images, target).shape == (1, 2, 64, 192)
    assert set(seen) == {(64, 96)}
    seen.clear()
    task.config.validation.window = (64, 32)
    task.predict(model, images, target)
    assert set(seen) == {(64, 32)}


def test_a_teacher_of_another_task(task: SegmentationTask):
    with pytest.raises(SegkdError, match="is no segmentation config"):
        task.teacher(load_config("bccd_teacher"))
