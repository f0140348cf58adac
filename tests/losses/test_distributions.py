import pytest
import torch
import torch.nn.functional as F
from losses.base import assert_sane, pair, value_and_grad

from segkd.errors import SegkdError
from segkd.losses import distribution_kl

SHAPE = (11, 17)
SETTINGS = ({}, {"temperature": 4.0}, {"temperature": 10.0, "reduction": "mean"})


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_equals_torch_kl_div(temperature):
    student, teacher = pair(SHAPE, torch.float64)
    of_bins = F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="none")
    weight = torch.rand(11, dtype=torch.float64)
    expected = (of_bins.sum(1) * weight).sum() * temperature**2 / 5
    torch.testing.assert_close(distribution_kl(student, teacher, temperature, "sum", weight, 5), expected)
    torch.testing.assert_close(distribution_kl(student, teacher, temperature, "mean", weight, 5), expected / 17)


@pytest.mark.parametrize("settings", SETTINGS)
def test_gradcheck(settings):
    student, teacher = pair((3, 5), torch.float64)
    assert torch.autograd.gradcheck(lambda s, t: distribution_kl(s, t, **settings), (student, teacher.requires_grad_()))


@pytest.mark.parametrize("settings", SETTINGS)
def test_is_zero_where_the_student_is_the_teacher_up_to_a_shift(settings):
    student, _ = pair(SHAPE, torch.float64)
    value, grad = value_and_grad(lambda s, t: distribution_kl(s, t, **settings), student, student.detach() + 3)
    assert abs(value) < 1e-12
    assert grad.abs().max() < 1e-12


def test_the_sides_of_a_box_share_its_weight():
    student, teacher = pair((6, 4, 17), torch.float64)
    weight = torch.rand(6, dtype=torch.float64)
    rows_of_sides = distribution_kl(
        student.flatten(0, 1), teacher.flatten(0, 1), weight=weight.repeat_interleave(4), avg_factor=4
    )
    torch.testing.assert_close(distribution_kl(student, teacher, weight=weight[:, None], avg_factor=4), rows_of_sides)


def test_a_row_of_weight_zero_takes_no_part():
    student, teacher = pair(SHAPE)
    weight = torch.ones(11)
    weight[4] = 0
    _, grad = value_and_grad(lambda s, t: distribution_kl(s, t, weight=weight), student, teacher)
    assert not grad[4].any()
    assert grad[[0, 5]].all()


@pytest.mark.parametrize(("gap", "dtype"), [(200.0, torch.float32), (60000.0, torch.bfloat16)])
def test_extreme_logits_stay_finite(gap, dtype):
    peaks = [F.one_hot(torch.tensor(index), 17) * gap for index in (0, 8, 16)]
    logits = torch.stack([*peaks, -peaks[0], torch.zeros(17)]).to(dtype)
    for teacher in logits:
        assert_sane(*value_and_grad(distribution_kl, logits, teacher.expand_as(logits)))


def test_bad_settings_are_named():
    with pytest.raises(SegkdError, match=r"no reduction 'men', did you mean 'mean'\?"):
        distribution_kl(*pair(SHAPE), reduction="men")
    with pytest.raises(SegkdError, match="temperature must be above 0"):
        distribution_kl(*pair(SHAPE), temperature=0.0)
