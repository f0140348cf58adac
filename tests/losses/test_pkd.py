import pytest
import torch
import torch.nn.functional as F
from losses.base import SHAPE, LossTests, pair, value_and_grad

from segkd.losses import PKD
from segkd.losses.pkd import deviation, standardize


class TestPKD(LossTests):
    loss = PKD
    name = "pkd"
    compiler = "inductor"

    def test_is_one_minus_the_correlation_of_each_channel(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        m = 2 * 7 * 9
        s, t = (x.transpose(0, 1).flatten(1) for x in (student.detach(), teacher))
        r = torch.stack([torch.corrcoef(torch.stack([s[c], t[c]]))[0, 1] for c in range(5)])
        # 1e-5: the 1e-6 beside the deviation
        assert PKD()(student, teacher).item() == pytest.approx(((m - 1) / m * (1 - r).mean()).item(), rel=1e-5)

    def test_scale_and_offset_do_not_matter(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        scale = torch.linspace(0.1, 20, 5, dtype=torch.float64).view(1, 5, 1, 1)
        expected = PKD()(student, teacher)
        torch.testing.assert_close(PKD()(scale * student - 3, teacher), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(PKD()(student, scale * teacher + 7), expected, rtol=1e-5, atol=0)
        assert PKD()(-student, student.detach()) > 1.9

    def test_another_size_is_resized_to_the_teachers(self) -> None:
        student, _ = pair(dtype=torch.float64)
        _, teacher = pair((2, 5, 4, 6), torch.float64)
        expected = PKD()(F.interpolate(student, size=(4, 6), mode="bilinear", align_corners=False), teacher)
        torch.testing.assert_close(PKD()(student, teacher), expected)

    def test_another_size_in_bfloat16_is_resized_in_float32(self) -> None:
        student, _ = pair(dtype=torch.bfloat16)
        _, teacher = pair((2, 5, 4, 6), torch.bfloat16)
        assert PKD()(student, teacher) == PKD()(student.float(), teacher.float())

    def test_one_value_a_channel_is_zero(self) -> None:
        value, grad = value_and_grad(PKD(), *pair((1, 5, 1, 1)))
        assert value == 0
        assert not grad.any()

    @pytest.mark.parametrize("constant", [0.0, 0.1, 1e4])
    def test_a_constant_channel_stays_finite(self, constant: float) -> None:
        for side in (0, 1):
            features = [x.detach().clone() for x in pair()]
            features[side][:, 2] = constant
            value, grad = value_and_grad(PKD(), *features)
            assert value.isfinite()
            assert grad.isfinite().all()


class TestDeviation:
    def test_is_the_unbiased_one_over_batch_and_positions(self) -> None:
        x = pair(dtype=torch.float64)[1]
        expected = x.std((0, 2, 3), keepdim=True)
        torch.testing.assert_close(deviation(x - x.mean((0, 2, 3), keepdim=True)), expected)

    def test_a_single_value_has_none_and_passes_no_gradient(self) -> None:
        x = torch.zeros(1, 3, 1, 1, requires_grad=True)
        found = deviation(x)
        assert found.tolist() == [[[[0.0]], [[0.0]], [[0.0]]]]
        (grad,) = torch.autograd.grad(found.sum(), x)
        assert not grad.any()  # NaN, which the square root's slope alone would make of it, counts as true


class TestStandardize:
    def test_mean_is_zero_and_deviation_one_over_batch_and_positions(self) -> None:
        standardized = standardize(pair(dtype=torch.float64)[1]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(standardized.mean(1), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(standardized.std(1), torch.ones(5, dtype=torch.float64), rtol=1e-5, atol=0)

    def test_a_constant_channel_becomes_zeros_and_passes_no_gradient(self) -> None:
        x = pair()[0].detach()
        x[:, 2] = 3.0
        standardized = standardize(x.requires_grad_())
        assert not standardized[:, 2].any()
        (grad,) = torch.autograd.grad((standardized * torch.randn(SHAPE)).sum(), x)
        assert not grad[:, 2].any()
        assert grad[:, 1].any()

    def test_gradcheck(self) -> None:
        assert torch.autograd.gradcheck(standardize, (pair((2, 2, 3, 2), torch.float64)[0],))
