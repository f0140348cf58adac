import pytest
import torch
import torch.nn.functional as F
from losses.base import SHAPE, pair, some_labels, value_and_grad
from losses.features import FeatureLossTests

from segkd.errors import SegkdError
from segkd.losses import IFV


class TestIFV(FeatureLossTests):
    loss = IFV
    name = "ifv"
    fullgraph = False  # how many classes there are is read from the labels

    def test_equals_a_loop_over_the_pixels(self) -> None:
        student, teacher = self.pair(dtype=torch.float64)
        target = some_labels()
        maps = []
        for x in (student, teacher):
            found = torch.ones(2, 7, 9, dtype=torch.float64)
            for b in range(2):
                for c in range(5):
                    own = x[b][:, target[b] == c]
                    mean = own.sum(1) / (own.shape[1] + 1e-6)
                    found[b][target[b] == c] = F.cosine_similarity(own, mean[:, None], dim=0)
            maps.append(found)
        torch.testing.assert_close(IFV()(student, teacher, target), F.mse_loss(maps[0], maps[1]))

    def test_ignored_pixels_get_no_gradient_and_without_others_it_is_zero(self) -> None:
        student, teacher = self.pair()
        target = some_labels()
        _, grad = value_and_grad(IFV(), student, teacher, target)
        assert not grad.transpose(0, 1)[:, target == 255].any()
        value, grad = value_and_grad(IFV(), student, teacher, torch.full_like(target, 255))
        assert value == 0
        assert not grad.any()

    def test_labels_are_needed_at_any_size_and_of_any_integer_type(self) -> None:
        student, teacher = self.pair()
        target = some_labels()
        larger = target.repeat_interleave(4, 1).repeat_interleave(4, 2).to(torch.uint8)
        assert IFV()(student, teacher, larger) == IFV()(student, teacher, target)
        with pytest.raises(SegkdError, match="ifv compares by class: it needs labels, and this batch has none"):
            IFV()(student, teacher)
        with pytest.raises(SegkdError, match=r"labels must be \(B, H, W\) with B=2, got \(3, 7, 9\)"):
            IFV()(student, teacher, torch.zeros(3, 7, 9))

    def test_a_feature_of_zero_has_no_gradient(self) -> None:
        student, teacher = pair(SHAPE)[0].detach(), self.pair()[1]
        student[:, :, 0] = 0
        value, grad = value_and_grad(IFV(), student, teacher, some_labels())
        assert value.isfinite()
        assert not grad[:, :, 0].isnan().any()
        assert grad.abs().max() < 1
