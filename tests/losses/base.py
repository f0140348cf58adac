"""What every distillation loss must hold; each loss's test class inherits it."""

import copy
import doctest
import itertools
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses import Loss

SHAPE = (2, 5, 7, 9)


def pair(shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Return a student that takes a gradient, and a teacher."""
    generator = torch.Generator().manual_seed(sum(shape))
    student = torch.randn(shape, generator=generator, dtype=torch.float64) * 2
    teacher = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def some_labels(shape: tuple[int, int, int] = (2, 7, 9), classes: int = 5, ignored: float = 0.2) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    target = torch.randint(0, classes, shape, generator=generator)
    target[torch.rand(shape, generator=generator) < ignored] = 255
    return target


def value_and_grad(loss: Callable[..., Tensor], student: Tensor, *rest: Tensor | None) -> tuple[Tensor, Tensor]:
    student = student.detach().requires_grad_()
    value = loss(student, *rest)
    (grad,) = torch.autograd.grad(value, student)
    return value.detach(), grad


def assert_sane(value: Tensor, grad: Tensor) -> None:
    assert value.shape == ()
    assert value.dtype == torch.float32
    assert value.isfinite(), value
    assert value >= -1e-6
    assert grad.isfinite().all()


class LossTests:
    """Subclass it as ``TestX`` and set the attributes; no test of its own is collected here."""

    loss: type[Loss]
    name: str
    """As its reference rows and its error messages call it."""
    settings: tuple[dict[str, Any], ...] = ({},)
    """The keyword arguments to check it under."""
    fullgraph = True
    """Whether it compiles to one graph."""
    compiler: str = "aot_eager"
    """What compiles it: this one captures graph and gradient as inductor does, without minutes in a C++ compiler."""
    rounding = 1e-12
    """How far from 0 it may be where the student is the teacher."""
    wrong_shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((2, 5, 7, 9), (2, 6, 7, 9)),
        ((2, 5, 7, 9), (3, 5, 7, 9)),
        ((2, 5, 7), (2, 5, 7)),
        ((5, 7, 9), (2, 5, 7, 9)),
    )

    def variants(self, channels: int = SHAPE[1]) -> list[nn.Module]:
        """Return the losses to check, for a student of so many channels."""
        return [self.loss(**settings) for settings in self.settings]

    def pair(self, shape: tuple[int, ...] = SHAPE, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Return a student of this shape that takes a gradient, and a teacher."""
        return pair(shape, dtype)

    # One value per channel or per pixel, one image, one class: the corners where a mean or a deviation breaks.
    @pytest.mark.parametrize("shape", [SHAPE, (1, 5, 7, 9), (2, 5, 1, 1), (1, 5, 1, 1), (1, 1, 7, 9), (2, 5, 1, 9)])
    def test_smoke(self, shape: tuple[int, ...]) -> None:
        student, teacher = self.pair(shape)
        target = some_labels((shape[0], shape[2], shape[3]))
        for loss in self.variants(shape[1]):
            value, grad = value_and_grad(loss, student, teacher, target)
            assert_sane(value, grad)
            assert grad.shape == shape
            if shape == SHAPE:
                assert value > 0
                assert grad.abs().max() > 0

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        student, _ = self.pair(dtype=torch.float64)
        for loss in self.variants():
            value, grad = value_and_grad(loss, student, student.detach().clone(), some_labels())
            assert abs(value) < self.rounding
            assert grad.abs().max() < self.rounding

    def test_wrong_shapes_are_named(self) -> None:
        for loss, (student, teacher) in itertools.product(self.variants(), self.wrong_shapes):
            with pytest.raises(SegkdError, match=self.name) as error:
                loss(torch.zeros(student), torch.zeros(teacher), some_labels())
            assert str(student) in str(error.value)
            assert str(teacher) in str(error.value)
            assert "\n" not in str(error.value)

    def test_gradcheck(self) -> None:
        student, teacher = self.pair((2, 3, 2, 2), torch.float64)
        target = some_labels((2, 2, 2), 3)
        for loss in self.variants():
            assert torch.autograd.gradcheck(loss, (student, teacher, target))

    def test_no_gradient_goes_into_the_teacher(self) -> None:
        student, teacher = self.pair()
        for loss in self.variants():
            loss(student, teacher.requires_grad_(), some_labels()).backward()
            assert teacher.grad is None
            assert student.grad is not None

    @pytest.mark.slow
    def test_compiled_equals_eager(self) -> None:
        student, teacher = self.pair()
        target = some_labels((2, 14, 18))
        for loss in (self.variants()[0], self.variants()[-1]):  # compiling all of them takes minutes
            torch.compiler.reset()
            eager = value_and_grad(loss, student, teacher, target)
            made = torch.compile(loss, fullgraph=self.fullgraph, backend=self.compiler)
            compiled = value_and_grad(made, student, teacher, target)
            torch.testing.assert_close(compiled, eager, rtol=1e-5, atol=1e-7)

    def test_autocast_changes_nothing(self) -> None:
        student, teacher = self.pair()
        for loss in self.variants():
            plain = value_and_grad(loss, student, teacher, some_labels())
            with torch.autocast("cpu", dtype=torch.bfloat16):
                value = loss(student, teacher, some_labels())
            assert value.dtype == torch.float32
            cast = value, torch.autograd.grad(value, student)[0]
            torch.testing.assert_close(cast, plain, rtol=0, atol=0)

    def test_bfloat16_inputs_are_computed_in_float32(self) -> None:
        student, teacher = self.pair(dtype=torch.bfloat16)
        for loss in self.variants():
            value, grad = value_and_grad(loss, student, teacher, some_labels())
            wide, wide_grad = value_and_grad(loss, student.float(), teacher.float(), some_labels())
            assert value.dtype == torch.float32
            assert grad.dtype == torch.bfloat16
            torch.testing.assert_close(value, wide, rtol=0, atol=0)
            torch.testing.assert_close(grad, wide_grad.bfloat16(), rtol=0, atol=0)

    @pytest.mark.parametrize(("gap", "dtype"), [(200.0, torch.float32), (60000.0, torch.bfloat16)])
    def test_extreme_logits_stay_finite(self, gap: float, dtype: torch.dtype) -> None:
        column = torch.arange(9).view(1, 1, 1, 9)
        sides = []
        for noise in self.pair():
            channel = torch.arange(noise.shape[1]).view(1, -1, 1, 1)
            peaks = {
                "one class": (channel == 1).float(),
                "one column": (column == 4).float(),
                "one pixel": ((column == 4) & (channel == 2) & (torch.arange(7).view(1, 1, 7, 1) == 3)).float(),
                "checks": ((channel + column) % 2).float(),
                "nowhere": torch.zeros(()),
            }
            sides.append({k: (noise.detach() * 0.1 + (peak - 0.5) * gap).to(dtype) for k, peak in peaks.items()})
        for loss in self.variants():
            for student_key, student in sides[0].items():
                for teacher_key, teacher in sides[1].items():
                    for sign in (1, -1):
                        value, grad = value_and_grad(loss, student, sign * teacher, some_labels())
                        assert value.isfinite(), (loss, student_key, teacher_key, value)
                        assert grad.isfinite().all(), (loss, student_key, teacher_key)

    def test_a_class_that_is_absent(self) -> None:
        student, teacher = self.pair()
        target = some_labels(classes=2)  # three of the five classes have no pixel
        with torch.no_grad():
            teacher[:, 3] = -80.0  # and one is ruled out everywhere
        for loss in self.variants():
            assert_sane(*value_and_grad(loss, student, teacher, target))

    def test_prints_its_settings(self) -> None:
        for settings in self.settings:
            for key, value in settings.items():
                assert f"{key}={value!r}" in repr(self.loss(**settings))

    def test_is_copied_and_pickled_with_its_settings(self) -> None:
        for loss in self.variants():
            for copied in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
                assert repr(copied) == repr(loss)
                assert copied(*self.pair(), some_labels()) == loss(*self.pair(), some_labels())

    def test_the_docstring_example_holds(self) -> None:
        (example,) = doctest.DocTestFinder(recurse=False).find(self.loss, globs={})
        assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
        assert example.examples


class LogitLossTests(LossTests):
    """For a loss with a temperature that can leave pixels out by their label."""

    def variants(self, channels: int = SHAPE[1]) -> list[nn.Module]:
        return super().variants(channels) + [self.loss(**settings, ignore_index=255) for settings in self.settings]

    def test_wrong_labels_are_named(self) -> None:
        student, teacher = pair()
        for target in (torch.zeros(2, 1, 7, 9), torch.zeros(3, 7, 9), torch.zeros(7, 9)):
            with pytest.raises(SegkdError, match="labels must be") as error:
                self.loss(ignore_index=255)(student, teacher, target.long())
            assert str(tuple(target.shape)) in str(error.value)

    def test_without_a_labelled_pixel_it_is_zero(self) -> None:
        student, teacher = pair()
        nothing = torch.full((2, 7, 9), 255)
        for settings in self.settings:
            value, grad = value_and_grad(self.loss(**settings, ignore_index=255), student, teacher, nothing)
            assert value == 0
            assert not grad.any()

    def test_ignored_pixels_neither_count_nor_get_a_gradient(self) -> None:
        student, teacher = pair()
        target = some_labels()
        target[0, :, 2] = 255  # a whole column, for a softmax over rows
        ignored = (target == 255)[:, None].expand(SHAPE)
        for settings in self.settings:
            loss = self.loss(**settings, ignore_index=255)
            value, grad = value_and_grad(loss, student, teacher, target)
            assert value > 0
            assert not grad[ignored].any()
            assert grad[~ignored].any()
            other = student.detach().masked_fill(ignored, 60000.0), teacher.masked_fill(ignored, -9000.0)
            torch.testing.assert_close(value_and_grad(loss, *other, target), (value, grad), rtol=1e-6, atol=1e-9)
            assert value != self.loss(**settings)(student, teacher, target)

    def test_an_ignored_image_does_not_disturb_the_other(self) -> None:
        student, teacher = pair()
        target = some_labels()
        target[0] = 255
        for settings in self.settings:
            loss = self.loss(**settings, ignore_index=255)
            value, grad = value_and_grad(loss, student, teacher, target)
            assert_sane(value, grad)
            assert not grad[0].any()
            assert grad[1].any()

    def test_labels_of_another_size_are_taken_at_the_nearest_pixel(self) -> None:
        student, teacher = pair()
        target = some_labels()
        larger = target.repeat_interleave(4, 1).repeat_interleave(4, 2)
        for settings in self.settings:
            loss = self.loss(**settings, ignore_index=255)
            assert loss(student, teacher, larger) == loss(student, teacher, target)

    def test_labels_may_be_of_any_integer_type(self) -> None:
        student, teacher = pair()
        target = some_labels()
        unsigned = torch.full((2, 7, 9), 156, dtype=torch.uint8)  # the last eight bits of -100, which is not meant
        for settings in self.settings:
            loss = self.loss(**settings, ignore_index=255)
            for dtype in (torch.uint8, torch.int16, torch.int32):
                assert loss(student, teacher, target.to(dtype)) == loss(student, teacher, target)
            outside = self.loss(**settings, ignore_index=-100)
            assert outside(student, teacher, unsigned) == outside(student, teacher, unsigned.long()) > 0

    def test_a_bad_temperature_is_an_error(self) -> None:
        for temperature in (0.0, -1.0, float("nan")):
            with pytest.raises(SegkdError, match="temperature"):
                self.loss(temperature=temperature)
