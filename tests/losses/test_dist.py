import torch
from losses.base import LogitLossTests, pair, some_labels, value_and_grad
from torch import Tensor

from segkd.losses import DIST


def definition(student: Tensor, teacher: Tensor, kept: Tensor | None = None) -> Tensor:
    """With beta 2, gamma 3 and temperature 1.5."""
    p, q = ((x / 1.5).softmax(1).transpose(0, 1).flatten(1) for x in (student, teacher))
    if kept is not None:
        p, q = p[:, kept.flatten()], q[:, kept.flatten()]
    rows = torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    columns = torch.stack([torch.corrcoef(torch.stack([a, b]))[0, 1] for a, b in zip(p, q, strict=True)])
    return 2 * (1 - rows.mean()) + 3 * (1 - columns.mean())


class TestDIST(LogitLossTests):
    loss = DIST
    name = "dist"
    settings = ({}, {"beta": 2.0, "gamma": 3.0, "temperature": 1.5})
    rounding = 1e-6  # 1e-8 is added to the product of the norms

    def test_equals_the_definition(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        target = some_labels()
        ours = DIST(2.0, 3.0, 1.5)(student, teacher)
        torch.testing.assert_close(ours, definition(student, teacher), rtol=1e-6, atol=0)
        ours = DIST(2.0, 3.0, 1.5, ignore_index=255)(student, teacher, target)
        torch.testing.assert_close(ours, definition(student, teacher, target != 255), rtol=1e-6, atol=0)

    def test_pixels_whose_classes_are_all_alike_pass_no_gradient(self) -> None:
        student, teacher = pair()
        with torch.no_grad():
            student[:, :, 0] = 0.5
        value, grad = value_and_grad(DIST(gamma=0.0), student, teacher)
        assert value.isfinite()
        assert not grad[:, :, 0].any()
        assert grad[:, :, 1].any()
