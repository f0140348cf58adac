import doctest

import pytest
import torch
import torch.nn.functional as F
from losses.base import some_labels
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.errors import SegkdError
from segkd.losses import KDIGA, PixelKD
from segkd.network import Network
from segkd.step import Step
from segkd.teachers import Given


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 5, 1)).double()


def images() -> Tensor:
    return torch.rand(2, 3, 7, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64).requires_grad_()


def value(loss: KDIGA, student: nn.Module, teacher: nn.Module, target: Tensor | None, x: Tensor) -> Tensor:
    return loss(student(x), teacher(x), target, Step(x))


def test_is_the_norm_of_the_difference_of_each_images_gradients():
    student, teacher, target, x = net(0), net(1), some_labels(), images()
    norms = []
    for b in range(2):
        of_image = x[b : b + 1].detach().requires_grad_()
        losses = [F.cross_entropy(model(of_image), target[b : b + 1], ignore_index=255) for model in (student, teacher)]
        of_student, of_teacher = (torch.autograd.grad(loss, of_image)[0] for loss in losses)
        norms.append((of_student - of_teacher).norm())
    torch.testing.assert_close(value(KDIGA(), student, teacher, target, x), torch.stack(norms).mean())


@pytest.mark.parametrize("variant", ["per_image", "released"])
def test_it_trains_the_student_alone(variant: str):
    student, teacher, target, loss = net(0), net(1).requires_grad_(False), some_labels(), KDIGA(variant)
    start = value(loss, student, teacher, target, images())
    start.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    assert value(loss, student, teacher, target, images()) < start
    weight = student[2].weight

    def of_weight(given: Tensor) -> Tensor:
        x = images()
        z = F.conv2d(student[:2](x), given, student[2].bias)
        return loss(z, teacher(x), target, Step(x))

    assert torch.autograd.gradcheck(of_weight, weight.detach().requires_grad_(), fast_mode=True)


def test_same_models_and_no_labels_give_zero_without_gradient():
    student = net(0)
    for teacher, target in ((net(0), some_labels()), (net(1), torch.full((2, 7, 9), 255))):
        found = value(KDIGA(), student, teacher, target, images())
        assert found == 0
        gradients = torch.autograd.grad(found, student[0].weight, allow_unused=True)
        assert all(gradient is None or not gradient.any() for gradient in gradients)


def test_in_a_distiller_beside_another_term_on_raw_images():
    student, teacher = Network(net(0).float(), mean=[0.5] * 3, std=[0.2] * 3), Network(net(1).float())
    terms = {"gradient": Term(KDIGA(), weight=2.0), "kd": Term(PixelKD())}
    distiller = Distiller(student, teacher, terms, nn.CrossEntropyLoss(ignore_index=255))
    raw, target = (images().detach() * 255).byte(), some_labels()
    out = distiller(raw, target)
    expected = value(KDIGA(), student, teacher, target, (raw.float() / 255).requires_grad_())
    torch.testing.assert_close(out.terms["gradient"], expected.detach())
    out.loss.backward()
    assert student.module[0].weight.grad.any()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    with pytest.raises(SegkdError, match="its outputs cannot be given"):
        distiller(raw, target, teacher={"logits": torch.zeros(2, 5, 7, 9)})
    with pytest.raises(SegkdError, match="KDIGA runs"):
        Distiller(student, Given({"logits": (5, 7, 9)}), terms, nn.CrossEntropyLoss(ignore_index=255))
    with torch.no_grad(), pytest.raises(SegkdError, match="kdiga needs the gradient on the images"):
        distiller(raw, target)
    with pytest.raises(SegkdError, match="needs labels"):
        distiller(raw, None)


def test_options_and_docstring():
    with pytest.raises(SegkdError, match="no variant 'per_images', did you mean 'per_image'"):
        KDIGA("per_images")
    (example,) = doctest.DocTestFinder(recurse=False).find(KDIGA, globs={})
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
