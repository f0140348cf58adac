import pytest
import torch
from losses.base import pair, value_and_grad

from segkd.errors import SegkdError
from segkd.losses import distribution_kl, quality_focal_kd
from segkd.losses._rows import check_rows, weighted_sum

LOSSES = (quality_focal_kd, distribution_kl)
ROWS = torch.tensor([1.0, 2.0, 4.0])


@pytest.mark.parametrize(
    ("weight", "avg_factor", "expected"),
    [
        (None, 1.0, 7.0),
        (3.0, 1.0, 21.0),
        (torch.tensor([1.0, 0.0, 0.5]), 2.0, 1.5),
        (torch.tensor(2.0), torch.tensor(7.0), 2.0),
        (torch.tensor([True, False, True]), 1, 5.0),
    ],
)
def test_weighted_sum(weight, avg_factor, expected):
    assert weighted_sum(ROWS, weight, avg_factor).item() == expected


def test_a_weight_may_broadcast_to_the_rows():
    per_anchor = torch.tensor([[1.0], [0.0], [2.0]])
    assert weighted_sum(ROWS[:, None].expand(3, 4), per_anchor, 1).item() == 4 * (1 + 8)


@pytest.mark.parametrize("shape", [(3, 1), (2,), (4, 3)])
def test_a_weight_that_would_widen_the_rows_is_refused(shape):
    with pytest.raises(SegkdError, match=r"broadcast to \(3,\)") as error:
        weighted_sum(ROWS, torch.ones(shape), 1)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("loss", LOSSES)
def test_without_rows_it_is_zero_and_can_be_differentiated(loss):
    value, grad = value_and_grad(loss, torch.zeros(0, 17), torch.zeros(0, 17))
    assert value == 0
    assert grad.shape == (0, 17)


@pytest.mark.parametrize("loss", LOSSES)
def test_is_computed_in_float32(loss):
    student, teacher = pair((11, 17), torch.bfloat16)
    wide, wide_grad = value_and_grad(loss, student.float(), teacher.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grad = value_and_grad(loss, student, teacher)
    assert value.dtype == torch.float32
    assert value == wide
    assert torch.equal(grad, wide_grad.bfloat16())


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("student", "teacher"), [((4, 5), (4, 6)), ((4, 5), (5, 5)), ((5,), (4, 5)), ((), ())])
def test_wrong_shapes_are_named(loss, student, teacher):
    with pytest.raises(SegkdError, match=loss.__name__) as error:
        loss(torch.zeros(student), torch.zeros(teacher))
    assert f"student {student} and teacher {teacher}" in str(error.value)
    with pytest.raises(SegkdError, match="a_loss expects"):
        check_rows("a_loss", torch.zeros(student), torch.zeros(teacher))


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_compiled_equals_eager(loss):
    torch.compiler.reset()
    student, teacher = pair((11, 17))
    weight = torch.rand(11)
    eager = value_and_grad(lambda s, t: loss(s, t, weight=weight), student, teacher)
    compiled = value_and_grad(torch.compile(lambda s, t: loss(s, t, weight=weight), fullgraph=True), student, teacher)
    torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-7)
