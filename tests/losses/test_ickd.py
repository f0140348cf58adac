import itertools

import pytest
import torch
import torch.nn.functional as F
from losses.base import SHAPE, pair, value_and_grad
from losses.features import FeatureLossTests
from torch import Tensor, nn

from segkd.errors import SegkdError
from segkd.losses import ICKD, _blocks
from segkd.losses.ickd import cells


def double_loop(student: Tensor, teacher: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """The loss of maps of one number of channels, cell by cell, from the borders of the cells."""
    total = []
    for b in range(len(student)):
        for top, bottom in itertools.pairwise(rows):
            for left, right in itertools.pairwise(columns):
                parts = (x[b, :, top:bottom, left:right].flatten(1) for x in (student, teacher))
                s, t = (F.normalize(x @ x.T, dim=1) for x in parts)
                total.append(((s - t) ** 2).sum() / student.shape[1])
    return sum(total) / len(total)


class TestICKD(FeatureLossTests):
    loss = ICKD
    name = "ickd"
    settings = ({"grid": (1, 1)},)

    @pytest.mark.parametrize("shape", [SHAPE, (1, 5, 7, 9), (2, 5, 1, 1), (1, 1, 7, 9), (2, 5, 1, 9)])
    def test_smoke(self, shape: tuple[int, ...]) -> None:
        super().test_smoke(shape)

    # Of cells of the map's own size come gradients whose strides torch's batch norm misreads if the batch is one image.
    @pytest.mark.parametrize("grid", [(4, 4), (2, 2)])
    def test_gradients_of_one_image_pass_a_batch_norm_rightly(self, grid: tuple[int, int]) -> None:
        student, teacher = pair((1, 5, 4, 4), torch.float64)[0], pair((1, 8, 4, 4), torch.float64)[1]
        loss, equal = ICKD(grid=grid), ICKD(grid=grid)
        loss.prepare(student, teacher)
        equal.prepare(student, student)
        norm = nn.BatchNorm2d(5).double()
        assert torch.autograd.gradcheck(loss.double(), (student, teacher))
        assert torch.autograd.gradcheck(lambda x: equal(norm(x), teacher[:, :5]), (student,))

    def test_one_position_alone_has_no_batch_statistics(self) -> None:
        with pytest.raises(SegkdError, match="ickd's batch norm needs two positions at least"):
            self.variants()[0](torch.zeros(1, 5, 1, 1), torch.zeros(1, 8, 1, 1))
        loss = ICKD()
        loss.prepare(*pair((1, 5, 1, 1)))
        assert loss(*pair((1, 5, 1, 1))) > 0  # without connector there is no norm

    def test_is_zero_where_the_student_is_the_teacher(self) -> None:
        student, _ = pair(dtype=torch.float64)
        for grid in ((1, 1), (2, 4)):
            loss = ICKD(grid)
            loss.prepare(student, student)
            assert not list(loss.parameters())
            value, grad = value_and_grad(loss, student, student.detach().clone())
            assert value == 0
            assert not grad.any()

    def test_equals_the_double_loop(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        for grid, rows, columns in (
            ((1, 1), [0, 7], [0, 9]),
            ((7, 3), range(8), [0, 3, 6, 9]),
            ((2, 4), [0, 3, 7], [0, 2, 4, 6, 9]),
        ):
            loss = ICKD(grid)
            loss.prepare(student, teacher)
            ours = value_and_grad(loss, student, teacher)
            plain = value_and_grad(
                lambda s, t, r=rows, c=columns: double_loop(s, t, list(r), list(c)), student, teacher
            )
            torch.testing.assert_close(ours, plain)

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        student, teacher = pair(dtype=torch.float64)
        loss = ICKD((3, 2))
        loss.prepare(student, teacher)
        whole = value_and_grad(loss, student, teacher)
        monkeypatch.setattr(_blocks, "ENTRIES", 5 * 25)
        torch.testing.assert_close(value_and_grad(loss, student, teacher), whole)

    def test_a_channel_of_zeros_stays_finite(self) -> None:
        for side in (0, 1):
            maps = [x.detach().clone() for x in pair()]
            maps[side][:, 2] = 0
            loss = ICKD((2, 2))
            loss.prepare(*maps)
            value, grad = value_and_grad(loss, *maps)
            assert value.isfinite()
            assert grad.isfinite().all()

    def test_a_grid_that_does_not_fit_is_an_error(self) -> None:
        with pytest.raises(SegkdError, match=r"grid is rows and columns, at least 1 each, got \(0, 2\)"):
            ICKD((0, 2))
        loss = ICKD([8, 2])
        loss.prepare(*self.pair())
        with pytest.raises(SegkdError, match=r"grid \(8, 2\) is finer than the features, \(2, 5, 7, 9\)"):
            loss(*self.pair())


def test_cells_hold_each_position_once() -> None:
    x = torch.arange(1.0, 64.0).view(1, 1, 7, 9)
    found = cells(x, (3, 4))
    assert found.shape == (12, 1, 9)
    assert sorted(found[found > 0].tolist()) == x.flatten().tolist()
