import pytest
import torch
import torch.nn.functional as F
from losses.base import LogitLossTests, pair, some_labels, value_and_grad

from segkd.errors import SegkdError
from segkd.losses import PixelKD
from segkd.losses.pixel_kd import pixel_kl, standardized


class TestPixelKD(LogitLossTests):
    loss = PixelKD
    name = "pixel_kd"
    compiler = "inductor"
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


class TestKnown:
    def test_pixels_that_the_teacher_knows_are_compared_in_its_classes(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        teacher = teacher.log_softmax(1).index_fill(1, torch.tensor([1, 4]), -1e4)  # as a partial class map gives it
        target = some_labels()
        own = [0, 2, 3]
        kl = pixel_kl(student[:, own], teacher[:, own])
        enough = teacher[:, own].exp().sum(1) >= 0.6
        assert 0 < enough.sum() < enough.numel()
        for used, loss in (
            (target != 1, PixelKD(known=0.6)),
            ((target != 1) & (target != 255), PixelKD(known=0.6, ignore_index=255)),
        ):
            used = used & (target != 4) & enough
            value, grad = value_and_grad(loss, student, teacher, target)
            torch.testing.assert_close(value, kl[used].mean().detach())
            assert not grad[:, [1, 4]].any()
            assert not grad.movedim(1, -1)[~used].any()
        torch.testing.assert_close(PixelKD(known=0.6)(student, teacher), kl[enough].mean())

    def test_gradcheck_and_nothing_known(self) -> None:
        student, teacher = pair((2, 3, 2, 2), torch.float64)
        teacher = teacher.log_softmax(1).index_fill(1, torch.tensor([1]), -1e4)
        assert torch.autograd.gradcheck(PixelKD(2.0, known=0.5), (student, teacher))
        value, grad = value_and_grad(PixelKD(known=1.0), student, teacher)
        assert value == 0
        assert not grad.any()

    def test_bad_options_are_errors(self) -> None:
        for options in ({"known": 1.1}, {"known": -0.1}, {"known": 0.5, "standardize": True}):
            with pytest.raises(SegkdError, match="known"):
                PixelKD(**options)


class TestStandardized:
    def test_mean_is_zero_and_deviation_one_over_the_classes(self) -> None:
        z = standardized("x", pair(dtype=torch.float64)[1])
        torch.testing.assert_close(z.mean(1), torch.zeros(2, 7, 9, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(z.std(1), torch.ones(2, 7, 9, dtype=torch.float64), rtol=1e-5, atol=0)

    def test_range_and_offset_do_not_matter_to_the_loss(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        loss = PixelKD(2.0, standardize=True)
        expected = PixelKD(2.0)(standardized("x", student), standardized("x", teacher))
        torch.testing.assert_close(loss(student, teacher), expected)
        torch.testing.assert_close(loss(9 * student - 4, teacher / 3 + 1), expected, rtol=1e-5, atol=0)

    def test_gradcheck_and_half_precision(self) -> None:
        student, teacher = pair((2, 3, 2, 2), torch.float64)
        loss = PixelKD(2.0, standardize=True)
        assert torch.autograd.gradcheck(loss, (student, teacher))
        student, teacher = pair(dtype=torch.bfloat16)
        assert loss(student, teacher) == loss(student.float(), teacher.float())

    def test_equal_logits_stay_finite(self) -> None:
        value, grad = value_and_grad(PixelKD(standardize=True), torch.full((1, 5, 2, 2), 3.0), pair((1, 5, 2, 2))[1])
        assert value.isfinite()
        assert grad.isfinite().all()

    def test_two_classes_are_an_error(self) -> None:
        with pytest.raises(SegkdError, match="pixel_kd with standardize needs at least 3 classes"):
            PixelKD(standardize=True)(*pair((1, 2, 3, 3)))


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
