import torch
from losses.base import value_and_grad
from losses.features import FeatureLossTests

from segkd.losses import AT
from segkd.losses.at import attention


class TestAT(FeatureLossTests):
    loss = AT
    name = "at"

    def test_equals_a_loop_over_the_images(self) -> None:
        student, teacher = self.pair(dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for s, t in zip(student, teacher, strict=True):
            q_s, q_t = ((x**2).mean(0) for x in (s, t))
            total = total + (q_s / q_s.norm() - q_t / q_t.norm()).square().sum()
        torch.testing.assert_close(AT()(student, teacher), total / (2 * 7 * 9))

    def test_sign_scale_and_the_order_of_the_channels_do_not_matter(self) -> None:
        student, teacher = self.pair(dtype=torch.float64)
        torch.testing.assert_close(AT()(-3 * student.flip(1), teacher), AT()(student, teacher))

    def test_an_image_of_zeros_passes_no_gradient(self) -> None:
        student, teacher = self.pair()
        with torch.no_grad():
            student[0] = 0
        value, grad = value_and_grad(AT(), student, teacher)
        assert value.isfinite()
        assert not grad[0].any()
        assert grad[1].any()
        assert not attention(student)[0].any()

    def test_one_position_is_zero(self) -> None:
        value, grad = value_and_grad(AT(), *self.pair((2, 5, 1, 1)))
        assert value < 1e-12
        assert grad.abs().max() < 1e-6
