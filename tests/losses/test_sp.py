import pytest
import torch
from losses.base import value_and_grad
from losses.features import FeatureLossTests

from segkd.losses import SP


@pytest.mark.filterwarnings("ignore:sp compares")
class TestSP(FeatureLossTests):
    loss = SP
    name = "sp"
    wrong_shapes = (((2, 5, 7, 9), (3, 8, 7, 9)), ((2, 5, 7), (2, 8, 7)), ((5, 7, 9), (2, 8, 7, 9)))

    def test_equals_a_loop_over_the_images(self) -> None:
        student, teacher = self.pair((3, 5, 7, 9), torch.float64)
        rows = []
        for x in (student, teacher):
            gram = torch.stack([torch.stack([(a * b).sum() for b in x]) for a in x])
            rows.append(torch.stack([row / row.norm() for row in gram]))
        torch.testing.assert_close(SP()(student, teacher), (rows[0] - rows[1]).square().sum() / 9)

    def test_the_sizes_may_differ(self) -> None:
        student, teacher = self.pair(dtype=torch.float64)
        wide = teacher.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(SP()(student, wide), SP()(student, teacher))

    def test_an_image_of_zeros_passes_no_gradient(self) -> None:
        student, teacher = self.pair((3, 5, 7, 9))
        with torch.no_grad():
            student[0] = 0
        value, grad = value_and_grad(SP(), student, teacher)
        assert value.isfinite()
        assert grad.isfinite().all()

    def test_a_single_image_is_zero_and_said_so(self) -> None:
        with pytest.warns(UserWarning, match="sp compares the images of a batch, and this one has a single image"):
            value, grad = value_and_grad(SP(), *self.pair((1, 5, 7, 9)))
        assert value < 1e-12
        assert grad.abs().max() < 1e-6
