import doctest
import importlib
import inspect

import pytest
import torch
from losses.base import assert_sane, pair, value_and_grad

import segkd.losses
from segkd.errors import SegkdError
from segkd.losses import quality_focal_kd
from segkd.losses.quality_focal import quality_focal

SHAPE = (11, 5)
BETAS = (0.0, 1.0, 2.0)


@pytest.mark.parametrize("beta", BETAS)
def test_equals_the_formula(beta):
    student, teacher = pair(SHAPE, torch.float64)
    p, q = student.sigmoid(), teacher.sigmoid()
    cross_entropy = -(q * p.log() + (1 - q) * (1 - p).log())
    torch.testing.assert_close(quality_focal(student, q, beta), cross_entropy * (p - q).abs() ** beta)
    weight = torch.rand(11, dtype=torch.float64)
    expected = (weight[:, None] * cross_entropy * (p - q).abs() ** beta).sum() / 3
    torch.testing.assert_close(quality_focal_kd(student, teacher, weight, beta, 3), expected)


@pytest.mark.parametrize("beta", BETAS)
def test_gradcheck(beta):
    # A numerical gradient knows no detach: the modulator's share is in it.
    student, teacher = pair((3, 4), torch.float64)
    weight = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    teacher.requires_grad_()
    assert torch.autograd.gradcheck(lambda s, t: quality_focal_kd(s, t, weight, beta, 3), (student, teacher))


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_is_zero_where_the_student_is_the_teacher(beta):
    student, _ = pair(SHAPE, torch.float64)
    value, grad = value_and_grad(lambda s, t: quality_focal_kd(s, t, beta=beta), student, student.detach().clone())
    assert value == 0
    assert not grad.any()


def test_leading_dimensions_are_rows():
    student, teacher = pair((2, 6, 5))
    weight = torch.rand(2, 6)
    flat = quality_focal_kd(student.flatten(0, 1), teacher.flatten(0, 1), weight.flatten())
    torch.testing.assert_close(quality_focal_kd(student, teacher, weight), flat)


def test_a_row_of_weight_zero_takes_no_part():
    student, teacher = pair(SHAPE)
    weight = torch.ones(11)
    weight[4] = 0
    value, grad = value_and_grad(quality_focal_kd, student, teacher, weight)
    assert not grad[4].any()
    assert grad[[0, 5]].all()
    keep = weight.bool()
    torch.testing.assert_close(value, quality_focal_kd(student[keep], teacher[keep]).detach())


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(("size", "dtype"), [(200.0, torch.float32), (60000.0, torch.bfloat16)])
def test_extreme_logits_stay_finite(size, dtype, beta):
    values = torch.tensor([-size, -1.0, 0.0, 1.0, size], dtype=dtype)
    student, teacher = torch.cartesian_prod(values, values).unbind(1)
    assert_sane(*value_and_grad(lambda s, t: quality_focal_kd(s, t, beta=beta), student[:, None], teacher[:, None]))


@pytest.mark.parametrize("beta", [-1.0, 0.5, float("nan")])
def test_a_beta_of_infinite_slope_is_an_error(beta):
    with pytest.raises(SegkdError, match="beta must be 0 or at least 1"):
        quality_focal_kd(*pair(SHAPE), beta=beta)


@pytest.mark.parametrize(
    ("file", "name"), [("quality_focal", "quality_focal_kd"), ("distributions", "distribution_kl")]
)
def test_the_package_names_the_function_and_its_docstring_holds(file, name):
    module = importlib.import_module(f"segkd.losses.{file}")
    assert inspect.isfunction(getattr(segkd.losses, name))
    assert getattr(segkd.losses, name) is getattr(module, name)
    assert doctest.testmod(module, raise_on_error=True).attempted == 3
