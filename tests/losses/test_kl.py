"""The KL divergence that losses share, and what takes a few rows or channels at a time."""

import pytest
import torch
from losses.base import pair

from segkd.losses import CWD, PKD, PixelKD, _kl
from segkd.losses._kl import KL


def plain(student: torch.Tensor, teacher: torch.Tensor, temperature: float, keep: torch.Tensor) -> torch.Tensor:
    """The definition, over the values that are kept; rows without any give 0."""
    found = []
    for s, t, mask in zip(student, teacher, keep, strict=True):
        s, t = s[mask] / temperature, t[mask] / temperature
        found.append((t.softmax(0) * (t.log_softmax(0) - s.log_softmax(0))).sum())
    return torch.stack(found)


def test_rows_share_what_is_valid_in_turn() -> None:
    student, teacher = (x.flatten(2).flatten(0, 1).double().requires_grad_() for x in pair((2, 3, 4, 5)))
    valid = torch.rand(2, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    valid[1] = False
    found = KL.apply(student, teacher, 2.0, valid)
    expected = plain(student, teacher, 2.0, valid.repeat_interleave(3, 0))
    torch.testing.assert_close(found, expected)
    weights = torch.linspace(1, 2, 6, dtype=torch.float64)
    grads = [torch.autograd.grad((weights * value).sum(), (student, teacher)) for value in (found, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradgradcheck(lambda s, t: KL.apply(s, t, 2.0, valid), (student, teacher))


@pytest.mark.parametrize("loss", [PixelKD(), CWD(), CWD(ignore_index=255), PKD()], ids=str)
def test_how_much_is_done_at_once_changes_nothing(loss: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = (x.double() for x in pair((3, 7, 5, 4)))
    target = torch.randint(0, 2, (3, 5, 4), generator=torch.Generator().manual_seed(0)) * 255
    results = []
    for cached in (1, 45, 10**6):
        monkeypatch.setattr(_kl, "CACHED", cached)
        s = student.clone().requires_grad_()
        value = loss(s, teacher, target)
        results.append((value, *torch.autograd.grad(value, s)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("loss", [CWD(), CWD(ignore_index=255), PKD()], ids=str)
def test_the_student_can_be_differentiated_twice(loss: torch.nn.Module) -> None:
    student, teacher = (x.double() for x in pair((2, 2, 2, 3)))
    student = student.detach().requires_grad_()
    target = torch.tensor([[[0, 255, 1], [1, 0, 255]]]).repeat(2, 1, 1)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, target), student)
    assert torch.autograd.gradgradcheck(lambda s: loss(s, teacher, target), student)
    (once,) = torch.autograd.grad(loss(student, teacher, target), student)
    (twice,) = torch.autograd.grad(loss(student, teacher, target), student, create_graph=True)
    torch.testing.assert_close(once, twice)
