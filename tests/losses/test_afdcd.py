import pytest
import torch
import torch.nn.functional as F
from losses.base import pair, value_and_grad
from losses.test_mgd import MaskedLossTests
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses import MGD, AfDCD, _blocks
from segkd.losses.afdcd import dense_contrast


def double_loop(student: Tensor, teacher: Tensor, groups: int, patch: int, temperature: float) -> Tensor:
    """The contrast, cell by cell, straight from the definition."""
    batch, channels, height, width = student.shape
    size, total, positions = channels // groups, student.new_zeros(()), 0
    for b in range(batch):
        for top in range(0, height - patch + 1, patch):
            for left in range(0, width - patch + 1, patch):
                places = [(y, x) for y in range(top, top + patch) for x in range(left, left + patch)]
                positions += len(places)
                for y, x in places:
                    for g in range(groups):
                        cell = student[b, g * size : (g + 1) * size, y, x]

                        def near(j: int, k: int, m: int, cell: Tensor = cell, b: int = b) -> Tensor:
                            return -(cell - teacher[b, m * size : (m + 1) * size, j, k]).abs().sum() / temperature

                        own = near(y, x, g)
                        others = [near(j, k, m) for j, k in places for m in range(groups) if m != g]
                        total = total + torch.logsumexp(torch.stack([own, *others]), 0) - own
    return total / positions


class TestAfDCD(MaskedLossTests):
    loss = AfDCD
    name = "afdcd"
    # Of maps as small as the base has them.
    settings = (
        {"groups": 4, "pool": 0, "patch": 1, "temperature": 1.0, "reconstruction_weight": 1.0, "contrast_weight": 1.0},
        {"groups": 2, "pool": 1, "patch": 1, "mask_ratio": 0.0},
    )

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        student, teacher = self.pair()
        for loss in self.variants():
            loss.contrast_weight, mgd = 0.0, MGD(loss.mask_ratio)
            mgd.draw, mgd.layers, mgd.channels = loss.draw, loss.layers, loss.channels
            torch.testing.assert_close(loss(student, teacher), loss.reconstruction_weight * mgd(student, teacher))

    def test_a_map_is_pooled_and_contrasted(self) -> None:
        student, teacher = self.pair((2, 5, 16, 17), torch.float64)
        loss = AfDCD(groups=4, temperature=0.5, reconstruction_weight=0.0, contrast_weight=1.0, mask_ratio=0.0)
        loss.prepare(student, teacher)
        pooled = [F.max_pool2d(x, 4) for x in (loss.double().generated(loss.layers[0], student), teacher)]
        torch.testing.assert_close(loss(student, teacher), double_loop(*pooled, 4, 4, 0.5))

    def test_what_does_not_fit_is_an_error(self) -> None:
        with pytest.raises(SegkdError, match=r"gradient_clip must be above 0, or null for none, got 0\.0"):
            AfDCD(gradient_clip=0.0)
        with pytest.raises(SegkdError, match="afdcd: 16 groups do not divide the teacher's 8 channels"):
            AfDCD().prepare(*self.pair())
        loss = AfDCD(groups=4)
        loss.prepare(*self.pair())
        with pytest.raises(SegkdError, match=r"a patch of 4 pooled by 4 takes 16 rows and columns, got \(2, 5, 7, 9\)"):
            loss(*self.pair())
        for option, value in (("groups", 1), ("patch", 0), ("pool", -1), ("contrast_weight", -1.0)):
            with pytest.raises(SegkdError, match=f"afdcd: {option} must be at least"):
                AfDCD(**{option: value})
        with pytest.raises(SegkdError, match="temperature must be above 0"):
            AfDCD(temperature=0.0)


class TestDenseContrast:
    @pytest.mark.parametrize(("groups", "patch"), [(2, 2), (4, 1), (2, 3)])
    def test_equals_the_double_loop(self, groups: int, patch: int, monkeypatch: pytest.MonkeyPatch) -> None:
        student, teacher = pair((2, 4, 3, 5), torch.float64)
        plain = value_and_grad(double_loop, student, teacher, groups, patch, 0.7)
        ours = value_and_grad(dense_contrast, student, teacher, groups, patch, 0.7)
        torch.testing.assert_close(ours, plain)
        monkeypatch.setattr(_blocks, "ENTRIES", 1)
        torch.testing.assert_close(value_and_grad(dense_contrast, student, teacher, groups, patch, 0.7), plain)
