import pytest
import torch
import torch.nn.functional as F
from losses.base import pair, value_and_grad
from losses.features import FeatureLossTests

from segkd.errors import SegkdError
from segkd.losses import FitNet


class TestFitNet(FeatureLossTests):
    loss = FitNet
    name = "fitnet"

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        student, _ = pair()
        loss = FitNet()
        loss.prepare(student, student)
        with torch.no_grad():
            loss.connector.weight.copy_(torch.eye(5)[:, :, None, None])
        value, grad = value_and_grad(loss, student, student.detach().clone())
        assert value == 0
        assert not grad.any()

    def test_equals_the_definition(self) -> None:
        student, teacher = self.pair()
        (loss,) = self.variants()
        mapped = torch.einsum("ts,bshw->bthw", loss.connector.weight[:, :, 0, 0], student)
        torch.testing.assert_close(loss(student, teacher), F.mse_loss(mapped, teacher))

    def test_what_is_prepared_keeps_its_weights_and_refuses_other_channels(self) -> None:
        student, teacher = self.pair()
        (loss,) = self.variants()
        weight = loss.connector.weight.clone()
        loss.prepare(student, teacher)
        assert torch.equal(loss.connector.weight, weight)
        with pytest.raises(SegkdError, match=r"prepared for 5 and 8 channels, got student \(2, 6, 3, 3\)"):
            loss(torch.zeros(2, 6, 3, 3), torch.zeros(2, 8, 3, 3))

    def test_what_is_not_prepared_says_so(self) -> None:
        with pytest.raises(SegkdError, match=r"call prepare\(student, teacher\) first"):
            FitNet()(*self.pair())
