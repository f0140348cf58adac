import pytest
import torch
from detection.detectors import distil
from detection.methods.base import IMAGES, TARGETS, tiny
from recipe import normal

from segkd import Term
from segkd.detection.methods import InconsistentKD
from segkd.errors import SegkdError


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
        with pytest.raises(SegkdError, match=r"inconsistent_kd expects .*\(2, 3, 4, 4\).*\(2, 3, 5, 4\)"):
            loss(student, teacher)
