from pathlib import Path

import pytest
import torch
from experiments import same
from torch import nn

from segkd.errors import SegkdError
from segkd.models.auxiliary import WithAuxiliary
from segkd.models.smp import build_model, normalization
from segkd.network import Network
from segkd.segmentation.metrics import SegmentationMetrics
from segkd.training.config import load_config
from segkd.training.segmentation.schema import SegmentationConfig
from segkd.training.segmentation.task import SegmentationTask
from segkd.training.teacher import TeachersOf, teacher_configs


@pytest.fixture
def task(experiment: Path) -> SegmentationTask:
    config = load_config(str(experiment / "distilled.yaml"))
    assert isinstance(config, SegmentationConfig)
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
    assert isinstance(headed.module, WithAuxiliary)
    assert same(headed.module.model.state_dict(), plain.module.state_dict())


def test_normalization_is_the_encoders_unless_given(task: SegmentationTask, experiment: Path, tmp_path: Path):
    seen = task.student().preprocess
    assert (seen.mean, seen.std) == normalization(task.config.student.encoder, None)
    own = "student.normalization={mean: [0.5, 0.5, 0.5], std: [1, 1, 1]}"
    changed = SegmentationTask(load_config(str(experiment / "distilled.yaml"), [own]))
    student = changed.student()
    assert (student.preprocess.mean, student.preprocess.std) == ((0.5,) * 3, (1.0,) * 3)
    student.save(tmp_path / "student")
    assert changed.load_student(tmp_path / "student").info["mean"] == [0.5] * 3


def test_the_distiller_is_what_the_config_says(task: SegmentationTask):
    student, teachers = task.student(), TeachersOf(task, teacher_configs(task.config))
    distiller = task.distiller(student, teachers.networks)
    assert distiller.student is student
    assert distiller.teacher is teachers.networks["teacher"]
    assert list(distiller.terms) == ["icsd", "kd"]
    assert set(distiller.schedule) == {"task", "icsd", "kd"}
    out = distiller(torch.rand(2, 3, 64, 96), torch.full((2, 64, 96), task.spec.ignore_index), progress=0.5)
    assert out.weights == pytest.approx({"task": 0.5, "icsd": 0.005, "kd": 0.5})
    assert torch.isfinite(out.loss)


def test_the_task_loss_has_the_configs_weight(task: SegmentationTask):
    task.config.distill.task_weight = 0.25
    distiller = task.distiller(task.student(), TeachersOf(task, teacher_configs(task.config)).networks)
    out = distiller(torch.rand(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.long), progress=0.5)
    assert out.weights["task"] == pytest.approx(0.125)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_crop_that_a_model_does_not_take(experiment: Path, side: str):
    task = SegmentationTask(load_config(str(experiment / "distilled.yaml"), ["data.crop=[65,10]"]))
    any_size, deeplab = Network(nn.Conv2d(3, 4, 1)), task.network(task.config.student, list("abcd"), weights=False)
    models = (deeplab, any_size) if side == "student" else (any_size, deeplab)
    with pytest.raises(SegkdError) as raised:
        task.distiller(models[0], {"teacher": models[1]})
    assert str(raised.value) == (
        f"distilled: data.crop: the {side} takes heights and widths that are multiples of 16, such as [64, 16], got "
        "[65, 10]"
    )


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (nn.Conv2d(3, 21, 1), "its logits are of 21 classes, not 4: what makes"),
        (nn.Conv2d(3, 2, 1), "its logits are of 2 classes, not 4: what makes"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten()), "cannot read logits (B, C, H, W) from a Tensor of shape"),
    ],
)
def test_a_model_of_ones_own_with_other_classes(task: SegmentationTask, module: nn.Module, says: str):
    with pytest.raises(SegkdError) as raised:
        task.distiller(Network(module, classes=list("abcd"), family="python"))
    assert str(raised.value).startswith(f"distilled: student: {says}")


def test_a_model_of_ones_own_that_takes_no_zeros_is_not_tried(task: SegmentationTask):
    task.check_networks({"student": Network(nn.Conv2d(5, 4, 1), classes=list("abcd"), family="python")})


def test_the_teacher_has_its_own_normalization(experiment: Path):
    own = "teacher.overrides.student.normalization={mean: [0, 0, 0], std: [1, 1, 1]}"
    task = SegmentationTask(load_config(str(experiment / "distilled.yaml"), [own]))
    teacher = TeachersOf(task, teacher_configs(task.config)).networks["teacher"]
    batch = {"image": torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8), "mask": torch.zeros(2, 64, 96).long()}
    images, target = task.inputs(batch)
    given: list[torch.Tensor] = []
    for network in (student := task.student(), teacher):
        network.module.register_forward_pre_hook(lambda _, images: given.append(images[0]))
    task.distiller(student, {"teacher": teacher})(images, target, progress=0.5)
    assert torch.equal(given[-2], images)  # the teacher runs first
    mean, std = (torch.tensor(of).view(3, 1, 1) for of in (student.preprocess.mean, student.preprocess.std))
    assert torch.equal(given[-1], (batch["image"].float() / 255 - mean) / std)


def test_without_a_teacher_it_is_the_task_loss_alone(experiment: Path):
    task = SegmentationTask(load_config(str(experiment / "tiny.yaml")))
    distiller = task.distiller(task.student())
    out = distiller(torch.rand(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.long))
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
    teacher = Network(model, class_map=[1, 0])
    metrics = SegmentationMetrics(2)
    batch = {"image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "mask": torch.zeros(1, 8, 8, dtype=torch.long)}
    task.count(metrics, teacher, batch)
    assert metrics.compute()["pixel_accuracy"] == 1.0


def test_sliding_uses_the_crop_unless_a_window_is_given(task: SegmentationTask):
    model = Network(build_model("Unet", "resnet18", 2, None), multiple=32).eval()
    images, target = torch.rand(1, 3, 64, 192), torch.zeros(1, 64, 192, dtype=torch.long)
    seen: list[tuple[int, ...]] = []
    model.module.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[-2:])))
    task.config.validation.mode = "sliding"
    assert task.predict(model, images, target).shape == (1, 2, 64, 192)
    assert set(seen) == {(64, 96)}
    seen.clear()
    task.config.validation.window = (64, 32)
    task.predict(model, images, target)
    assert set(seen) == {(64, 32)}


def test_a_teacher_of_another_task(experiment: Path):
    config = load_config(str(experiment / "distilled.yaml"), ["teacher.config=bccd_teacher"])
    with pytest.raises(SegkdError, match="is no segmentation config"):
        teacher_configs(config)
