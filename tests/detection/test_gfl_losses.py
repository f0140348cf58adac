import numpy as np
import pytest
import torch
import torch.nn.functional as F
from losses.base import value_and_grad
from recipe import normal, uniform

from segkd.detection.gfl import distribution_focal_loss, integral, quality_focal_loss
from segkd.errors import SegkdError

ROWS, CLASSES, SEED = 41, 6, 2000
LOGITS = normal(SEED + 1, [ROWS, CLASSES], 2.0)
LABELS = torch.from_numpy(np.random.default_rng(SEED + 2).integers(0, CLASSES + 1, ROWS))
SCORES = uniform(SEED + 3, ROWS)
SIDES = normal(SEED + 5, [4 * ROWS, 17])
DISTANCES = uniform(SEED + 6, 4 * ROWS, 0.0, 15.9)


class TestQualityFocalLoss:
    def test_the_target_is_the_score_at_the_label(self) -> None:
        z = torch.tensor([[0.3, -1.0], [2.0, 0.5]], dtype=torch.float64)
        p = z.sigmoid()
        quality = torch.tensor([[0.0, 0.7], [0.0, 0.0]], dtype=torch.float64)
        expected = (F.binary_cross_entropy(p, quality, reduction="none") * (p - quality) ** 2).sum()
        labels, scores = torch.tensor([1, 2]), torch.tensor([0.7, 0.9])  # the second is background, of any score
        torch.testing.assert_close(quality_focal_loss(z, labels, scores.double()), expected)

    def test_is_least_at_the_score(self) -> None:
        grid = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
        for score in (0.1, 0.5, 0.83):
            losses = [
                quality_focal_loss(p.logit().view(1, 1), torch.tensor([0]), torch.tensor([score])).item() for p in grid
            ]
            assert grid[np.argmin(losses)].item() == pytest.approx(score)
            assert min(losses) == pytest.approx(0, abs=1e-12)

    def test_gradcheck(self) -> None:
        z = LOGITS[:5].clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: quality_focal_loss(x, LABELS[:5], SCORES[:5]), (z,))

    def test_is_computed_in_float32(self) -> None:
        z = LOGITS.bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = quality_focal_loss(z, LABELS, SCORES.float())
        assert value.dtype == torch.float32
        assert value == quality_focal_loss(z.float(), LABELS, SCORES.float())

    def test_without_priors_it_is_zero(self) -> None:
        value, grad = value_and_grad(
            lambda z: quality_focal_loss(z, torch.zeros(0, dtype=torch.int64), torch.zeros(0)), torch.zeros(0, 3)
        )
        assert value == 0
        assert grad.shape == (0, 3)

    def test_bad_shapes_are_named(self) -> None:
        for shapes in (((41,), (41,), (41,)), ((41, 6), (40,), (41,)), ((41, 6), (41,), (41, 1))):
            z, labels, scores = (torch.zeros(shape) for shape in shapes)
            with pytest.raises(SegkdError, match="quality_focal_loss expects") as error:
                quality_focal_loss(z, labels.long(), scores)
            assert all(str(shape) in str(error.value) for shape in shapes)


class TestDistributionFocalLoss:
    @pytest.mark.parametrize("distance", [0.0, 5.0, 15.0, 16.0])
    def test_a_whole_distance_is_one_bin(self, distance: float) -> None:
        logits = SIDES[:3]
        target = torch.full((3,), distance, dtype=torch.float64)
        expected = F.cross_entropy(logits, target.long(), reduction="sum")
        torch.testing.assert_close(distribution_focal_loss(logits, target), expected)

    def test_is_least_where_the_mean_is_the_distance(self) -> None:
        target = torch.tensor([3.25], dtype=torch.float64)
        logits = torch.full((1, 17), -60.0, dtype=torch.float64)
        logits[0, 3], logits[0, 4] = np.log(0.75), np.log(0.25)
        value, grad = value_and_grad(lambda z: distribution_focal_loss(z, target), logits)
        assert value.item() == pytest.approx(-0.75 * np.log(0.75) - 0.25 * np.log(0.25))
        assert grad.abs().max() < 1e-12
        torch.testing.assert_close(integral(logits), target)

    def test_weights_are_per_row(self) -> None:
        weight = torch.zeros(len(SIDES), dtype=torch.float64)
        weight[7] = 2
        expected = 2 * distribution_focal_loss(SIDES[7:8], DISTANCES[7:8]) / 3
        torch.testing.assert_close(distribution_focal_loss(SIDES, DISTANCES, weight, 3), expected)

    def test_gradcheck(self) -> None:
        z = SIDES[:4].clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: distribution_focal_loss(x, DISTANCES[:4]), (z,))

    def test_is_computed_in_float32(self) -> None:
        z = SIDES.bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = distribution_focal_loss(z, DISTANCES.float())
        assert value.dtype == torch.float32
        assert value == distribution_focal_loss(z.float(), DISTANCES.float())

    def test_bad_shapes_are_named(self) -> None:
        with pytest.raises(SegkdError, match=r"got \(4, 17\) and \(3,\)"):
            distribution_focal_loss(torch.zeros(4, 17), torch.zeros(3))


class TestIntegral:
    def test_four_sides_in_a_row(self) -> None:
        assert integral(SIDES).shape == (4 * ROWS,)
        torch.testing.assert_close(integral(SIDES.reshape(ROWS, 68)), integral(SIDES).reshape(ROWS, 4))
        torch.testing.assert_close(integral(SIDES.reshape(ROWS, 4, 17)), integral(SIDES).reshape(ROWS, 4))

    def test_is_the_mean_bin(self) -> None:
        assert integral(torch.zeros(17)).item() == pytest.approx(8)
        torch.testing.assert_close(integral(100 * torch.eye(17)), torch.arange(17.0))

    def test_is_computed_in_float32(self) -> None:
        z = SIDES.bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(integral(z), integral(z.float()))

    def test_another_number_of_bins_is_an_error(self) -> None:
        for shape in ((3, 16), (3, 34), ()):
            with pytest.raises(SegkdError, match="integral expects") as error:
                integral(torch.zeros(shape))
            assert str(shape) in str(error.value)
