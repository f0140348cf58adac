import pytest
import torch
import torch.nn.functional as F
from losses.base import pair
from losses.features import FeatureLossTests

from segkd.errors import SegkdError
from segkd.losses import CIRKDMiniBatch, _contrast


class TestCIRKDMiniBatch(FeatureLossTests):
    loss = CIRKDMiniBatch
    name = "cirkd_minibatch"
    settings = ({}, {"pool": 2, "temperature": 1.0})

    def test_equals_a_loop_over_the_pairs_of_images(self) -> None:
        maps = self.pair(dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for i in range(2):
            for j in range(2):
                s, t = (F.normalize(x, dim=1).flatten(2) for x in maps)
                s, t = (x[i].T @ x[j] / 0.1 for x in (s, t))
                total = total + F.kl_div(F.log_softmax(s, 1), F.softmax(t, 1), reduction="sum") / 63
        torch.testing.assert_close(CIRKDMiniBatch()(*maps), total / 4)

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        student, teacher = self.pair()
        whole = CIRKDMiniBatch()(student, teacher)
        (grad,) = torch.autograd.grad(whole, student)
        monkeypatch.setitem(_contrast.BLOCK, "cpu", 500)  # three anchors
        blocks = CIRKDMiniBatch()(student, teacher)
        torch.testing.assert_close(blocks, whole)
        torch.testing.assert_close(torch.autograd.grad(blocks, student)[0], grad)

    def test_the_length_of_a_feature_does_not_matter_and_a_zero_one_has_no_gradient(self) -> None:
        student, teacher = pair()[0], self.pair()[1]
        loss = CIRKDMiniBatch()
        torch.testing.assert_close(loss(3 * student, teacher / 7), loss(student, teacher))
        with torch.no_grad():
            student[:, :, 0] = 0
        (grad,) = torch.autograd.grad(loss(student, teacher), student)
        assert not grad[:, :, 0].any()
        assert grad.isfinite().all()

    def test_bad_options_are_errors(self) -> None:
        for pool in (0, 1.5):
            with pytest.raises(SegkdError, match=r"pool must be a (whole )?number"):
                CIRKDMiniBatch(pool=pool)
        with pytest.raises(SegkdError, match="temperature"):
            CIRKDMiniBatch(temperature=0)
