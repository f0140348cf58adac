import pytest
import torch
import torch.nn.functional as F
from losses.base import SHAPE, LogitLossTests, pair
from torch import nn

from segkd.errors import SegkdError
from segkd.losses import GDKD, PixelKD


class TestGDKD(LogitLossTests):
    loss = GDKD
    name = "gdkd"
    settings = ({}, {"k": 1, "w2": 0.5, "temperature": 4.0})

    def variants(self, channels: int = SHAPE[1]) -> list[nn.Module]:
        losses = super().variants(channels)
        for loss in losses:
            loss.k = min(loss.k, channels)
        return losses

    def test_equals_the_definition_pixel_by_pixel(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for s, t in zip(student.movedim(1, -1).flatten(0, 2), teacher.movedim(1, -1).flatten(0, 2), strict=True):
            p, q = (t / 2).softmax(0), (s / 2).softmax(0)
            top = p.argsort(descending=True)
            inside, outside = top[:2], top[2:]
            masses = [torch.stack([m[inside].sum(), m[outside].sum()]) for m in (q, p)]
            total = total + 3 * F.kl_div(masses[0].log(), masses[1], reduction="sum")
            for weight, part in ((0.7, inside), (2, outside)):
                total = total + weight * F.kl_div(
                    (q[part] / q[part].sum()).log(), p[part] / p[part].sum(), reduction="sum"
                )
        expected = 4 * total / (2 * 7 * 9)
        torch.testing.assert_close(GDKD(2, w0=3.0, w1=0.7, temperature=2.0)(student, teacher), expected)

    def test_of_all_classes_it_is_pixel_kd(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        torch.testing.assert_close(GDKD(5, temperature=3.0)(student, teacher), PixelKD(3.0)(student, teacher))

    def test_k_is_between_one_and_the_classes(self) -> None:
        with pytest.raises(SegkdError, match="k of at least 1, got 0"):
            GDKD(0)
        with pytest.raises(SegkdError, match=r"gdkd with k=6 needs as many classes, got logits \(2, 5, 7, 9\)"):
            GDKD(6)(*pair())
