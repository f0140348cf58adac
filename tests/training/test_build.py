from pathlib import Path

import pytest
import torch
from experiments import same
from torch import nn

from segkd.segmentation.auxiliary import WithAuxiliary
from segkd.segmentation.encoders import normalization
from segkd.training.build import (
    build_distiller,
    build_spec,
    build_student,
    build_train_set,
    build_val_set,
    model_normalization,
    student_info,
)
from segkd.training.config import load_config
from segkd.training.schema import Config
from segkd.training.teacher import BuiltTeacher, build_teacher, teacher_config


@pytest.fixture
def config(experiment: Path) -> Config:
    return load_config(str(experiment / "distilled.yaml"))


def test_sets(config: Config):
    spec = build_spec(config)
    train_set, val_set = build_train_set(config, spec), build_val_set(config, spec)
    assert (len(train_set), len(val_set)) == (5, 3)
    config.validation.resize = (32, 48)
    item = build_val_set(config, spec)[0]
    assert (item["image"].shape, item["mask"].shape) == ((3, 32, 48), (64, 96))


def test_the_students_weights_follow_from_the_seed(config: Config):
    spec = build_spec(config)
    first, again = build_student(config, spec), build_student(config, spec)
    assert same(first.state_dict(), again.state_dict())
    config.seed = 8
    assert not same(first.state_dict(), build_student(config, spec).state_dict())


def test_an_auxiliary_head_leaves_the_seeds_weights_alone(config: Config):
    spec = build_spec(config)
    plain = build_student(config, spec)
    config.student.auxiliary = True
    headed = build_student(config, spec)
    assert isinstance(headed, WithAuxiliary)
    assert same(headed.model.state_dict(), plain.state_dict())


def test_normalization_is_the_encoders_unless_given(config: Config):
    assert model_normalization(config.student) == normalization(config.student.encoder, None)
    changed = Config.model_validate(
        {
            **config.model_dump(),
            "student": {**config.student.model_dump(), "normalization": {"mean": [0.5] * 3, "std": [1] * 3}},
        }
    )
    assert model_normalization(changed.student) == ((0.5,) * 3, (1.0,) * 3)
    assert student_info(changed, build_spec(changed))["mean"] == [0.5] * 3


def test_the_distiller_is_what_the_config_says(config: Config):
    spec = build_spec(config)
    student = build_student(config, spec)
    assert config.teacher is not None
    teacher = build_teacher(config.teacher, spec.num_classes, teacher_config(config))
    distiller = build_distiller(config, spec, student, teacher)
    assert distiller.student is student
    assert distiller.teacher is teacher.model
    assert list(distiller.terms) == ["icsd", "kd"]
    assert set(distiller.schedule) == {"task", "icsd", "kd"}
    out = distiller(torch.randn(2, 3, 64, 96), torch.full((2, 64, 96), spec.ignore_index), progress=0.5)
    assert out.weights == pytest.approx({"task": 0.5, "icsd": 0.005, "kd": 0.5})
    assert torch.isfinite(out.loss)


def test_the_teacher_has_its_own_normalization(config: Config):
    spec = build_spec(config)
    model = nn.Conv2d(3, spec.num_classes, 1)
    distiller = build_distiller(
        config, spec, build_student(config, spec), BuiltTeacher(model, "", ((0.0,) * 3, (1.0,) * 3))
    )
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in model_normalization(config.student))
    raw = torch.rand(1, 3, 8, 8)
    _, for_teacher, _ = distiller.adapter.inputs((raw - mean) / std)
    assert torch.allclose(for_teacher, raw, atol=1e-6)


def test_without_a_teacher_it_is_the_task_loss_alone(experiment: Path):
    config = load_config(str(experiment / "tiny.yaml"))
    spec = build_spec(config)
    distiller = build_distiller(config, spec, build_student(config, spec), None)
    out = distiller(torch.randn(2, 3, 64, 96), torch.zeros(2, 64, 96, dtype=torch.long))
    assert list(out.terms) == ["task"]
    assert float(out.loss.detach()) == pytest.approx(float(out.terms["task"]))
