"""A KL divergence in three parts: its fused form is the plain one, gradients and their gradients included."""

import pytest
import torch

from segkd.losses._grouped_kl import _plain, grouped_kl


@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_fused_is_plain(spread: float):
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(3, 7, 4, 5, generator=generator, dtype=torch.float64) * spread for _ in range(2))
    group = torch.rand(3, 7, 4, 5, generator=generator) < 0.4
    group[0, :, 0], group[1, :, 0] = True, False  # one of the halves is empty
    weights = torch.rand(3, 3, 4, 5, generator=generator, dtype=torch.float64)
    found = []
    for each in (grouped_kl, _plain):
        student = s.clone().requires_grad_()
        parts = torch.stack(each(student, t, group, 2.0))
        grad = torch.autograd.grad((parts * weights).sum(), student, retain_graph=True)[0]
        again = torch.autograd.grad((parts * weights).sum(), student)[0]
        found.append((parts, grad, again))
    for fused, plain in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-9, atol=1e-12)


def test_gradients_of_gradients_and_of_a_teacher():
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(1, 4, 2, 2, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    group = torch.rand(1, 4, 2, 2, generator=generator) < 0.5
    assert torch.autograd.gradcheck(lambda student, teacher: grouped_kl(student, teacher, group, 3.0), (s, t))
    fixed = t.detach()
    assert torch.autograd.gradcheck(lambda student: grouped_kl(student, fixed, group, 3.0), (s,))
    assert torch.autograd.gradgradcheck(lambda student: grouped_kl(student, fixed, group, 3.0), (s,))
