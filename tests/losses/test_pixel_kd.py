import pytest
import torch
import torch.nn.functional as F
from losses.base import LogitLossTests, pair, some_labels

from segkd.errors import SegkdError
from segkd.losses import PixelKD
from segkd.losses.pixel_kd import pixel_kl


class TestPixelKD(LogitLossTests):
    loss = PixelKD
    name = "pixel_kd"
    settings = ({}, {"temperature": 4.0})

    def test_equals_torch_kl_div(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        expected = F.kl_div(F.log_softmax(student / 3, 1), F.softmax(teacher / 3, 1), reduction="sum") * 9 / (2 * 7 * 9)
        torch.testing.assert_close(PixelKD(temperature=3.0)(student, teacher), expected)

    def test_the_squared_temperature_makes_up_for_softened_logits(self) -> None:
        # Logits and temperature scaled together leave the probabilities as they are: only T^2 remains.
        student, teacher = pair(dtype=torch.float64)
        for temperature in (2.0, 5.0):
            scaled = PixelKD(temperature)(temperature * student, temperature * teacher)
            torch.testing.assert_close(scaled, temperature**2 * PixelKD()(student, teacher))

    def test_the_mean_is_over_the_labelled_pixels(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        target = some_labels()
        expected = pixel_kl(student, teacher)[target != 255].mean()
        torch.testing.assert_close(PixelKD(ignore_index=255)(student, teacher, target), expected)

    def test_labels_are_not_read_unless_asked(self) -> None:
        student, teacher = pair()
        assert PixelKD()(student, teacher, some_labels()) == PixelKD()(student, teacher)
        # And without labels there is nothing to leave out.
        assert PixelKD(ignore_index=255)(student, teacher, None) == PixelKD()(student, teacher)


class TestPixelKL:
    def test_is_one_divergence_a_pixel_from_the_teacher(self) -> None:
        student, teacher = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
        teacher[0, 0, 0, 1] = 1.0
        p = torch.tensor([1.0, 0.0]).softmax(0)
        expected = (p * (p / 0.5).log()).sum()
        torch.testing.assert_close(pixel_kl(student, teacher), torch.tensor([[[0.0, expected]]]))
        assert not torch.isclose(pixel_kl(teacher, student)[0, 0, 1], expected)

    def test_a_teacher_that_learns_too_has_its_gradient(self) -> None:
        student, teacher = (x.requires_grad_() for x in pair(dtype=torch.float64))
        assert torch.autograd.gradcheck(pixel_kl, (student, teacher))
        assert torch.autograd.gradcheck(pixel_kl, (student.detach(), teacher))

    def test_can_be_differentiated_twice(self) -> None:
        student, teacher = (x.requires_grad_() for x in pair(dtype=torch.float64))
        for temperature in (1.0, 3.0):
            assert torch.autograd.gradgradcheck(lambda s, t, T=temperature: pixel_kl(s, t, T), (student, teacher))
            assert torch.autograd.gradgradcheck(PixelKD(temperature), (student, teacher.detach()))
        once = torch.autograd.grad(pixel_kl(student, teacher).sum(), (student, teacher))
        twice = torch.autograd.grad(pixel_kl(student, teacher).sum(), (student, teacher), create_graph=True)
        torch.testing.assert_close(once, twice)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_computed_in_float32(self, dtype: torch.dtype) -> None:
        student, teacher = (x.to(dtype).detach().requires_grad_() for x in pair())
        value = pixel_kl(student, teacher, 2.0)
        torch.testing.assert_close(value, pixel_kl(student.float(), teacher.float(), 2.0), rtol=0, atol=0)
        value.sum().backward()
        assert student.grad.dtype == teacher.grad.dtype == dtype

    def test_backward_can_run_twice(self) -> None:
        student, teacher = pair()
        student.requires_grad_()
        value = PixelKD()(student, teacher)
        value.backward(retain_graph=True)
        once = student.grad.clone()
        value.backward()
        torch.testing.assert_close(student.grad, 2 * once)

    def test_shapes_and_temperature_are_checked(self) -> None:
        with pytest.raises(SegkdError, match=r"\(1, 2, 3, 3\)"):
            pixel_kl(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
        with pytest.raises(SegkdError, match="temperature"):
            pixel_kl(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 3), temperature=0.0)
