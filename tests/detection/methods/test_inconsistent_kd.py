import doctest

import pytest
import torch
from detection.detectors import distil
from detection.methods.base import IMAGES, TARGETS, tiny
from recipe import normal
from torch import Tensor

from segkd import Term
from segkd.detection.methods import InconsistentKD, inconsistent_kd
from segkd.detection.methods.inconsistent_kd import adversarial_images
from segkd.errors import SegkdError


def task(x: Tensor) -> Tensor:
    return (2 * x).sin().sum()


class TestImages:
    def test_stay_near_the_image_and_in_its_channels_range(self) -> None:
        clean = normal(0, [2, 3, 5, 6]) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
        found = adversarial_images(clean, task, steps=9)
        low, high = clean.amin((2, 3), keepdim=True), clean.amax((2, 3), keepdim=True)
        widest = (high - low).amax(1, keepdim=True)
        assert ((found - clean).abs() <= 8 / 255 * widest + 1e-12).all()
        assert ((found >= low) & (found <= high)).all()
        assert task(found) > task(clean)
        assert not found.requires_grad
        # Each image is changed by what it says of itself alone.
        torch.testing.assert_close(adversarial_images(clean[:1], task, steps=9), found[:1])

    def test_without_steps_or_gradient_they_are_the_images(self) -> None:
        clean = normal(0, [1, 3, 4, 4])
        assert torch.equal(adversarial_images(clean, task, steps=0), clean)
        assert torch.equal(adversarial_images(clean, lambda x: 0 * x.sum()), clean)
        with torch.no_grad():  # as whoever fills a store does
            assert not torch.equal(adversarial_images(clean, task), clean)

    def test_the_docstring_examples_hold(self) -> None:
        assert doctest.testmod(inconsistent_kd).failed == 0


class TestInconsistentKD:
    def test_trains_the_student_on_the_levels_of_two_detectors(self) -> None:
        terms = {"own": Term(InconsistentKD(), student="fpn", teacher="fpn")}
        distiller = distil(tiny("gfl", 0), tiny("gfl", 1, 96), terms, task_weight=0.0)
        distiller.zero_grad()
        distiller(IMAGES, TARGETS).loss.backward()
        grads = [parameter.grad for parameter in distiller.student.backbone.parameters()]
        assert sum(grad is not None and bool(grad.any()) for grad in grads) > len(grads) / 2
        assert all(parameter.grad is not None for parameter in distiller.losses["own"].parameters())

    def test_gradcheck_and_no_gradient_into_the_teacher(self) -> None:
        loss, teacher = InconsistentKD(), normal(1, [2, 4, 3, 3]).requires_grad_()
        student = normal(0, [2, 3, 3, 3]).requires_grad_()
        loss.prepare(student, teacher)
        loss.double()
        assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)
        assert torch.autograd.grad(loss(student, teacher), teacher, allow_unused=True) == (None,)

    def test_messages_have_its_name(self) -> None:
        loss, student, teacher = InconsistentKD(), torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 5, 4)
        loss.prepare(student, teacher)
        with pytest.raises(SegkdError, match=r"InconsistentKD expects .*\(2, 3, 4, 4\).*\(2, 3, 5, 4\)"):
            loss(student, teacher)
