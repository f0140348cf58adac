import pytest
import torch
import torch.nn.functional as F
from losses.base import LossTests, pair, some_labels, value_and_grad

from segkd.errors import SegkdError
from segkd.losses import BPKD, CWD
from segkd.losses.bpkd import boundaries


class TestBPKD(LossTests):
    loss = BPKD
    name = "bpkd"
    settings = ({"edge_width": 3}, {"temperature": 4.0, "alpha": 1.0})

    def test_without_boundary_it_is_cwd(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        expected = 20 * CWD()(student, teacher)
        found = BPKD(temperature=4.0)(student, teacher, torch.full((2, 28, 36), 2))
        torch.testing.assert_close(found, expected)

    def test_where_all_is_boundary_it_is_a_kl_over_the_classes(self) -> None:
        student, teacher = pair((2, 2, 4, 4), torch.float64)
        target = (torch.arange(8)[:, None] + torch.arange(8)).remainder(2).expand(2, 8, 8)
        edge, body = BPKD(edge_width=3, temperature=2.0).parts(student, teacher, target)
        kl = F.kl_div((student / 2).log_softmax(1), (teacher / 2).softmax(1), reduction="none").sum(1)
        # Once for each of the two classes.
        torch.testing.assert_close(edge, 2 * 4 * 2 * kl.mean())
        assert body == 0

    def test_pixels_without_label_neither_count_nor_get_a_gradient(self) -> None:
        student, teacher = pair()
        target = some_labels()
        target[0, 0], target[0, 1] = 5, -1  # no classes
        left_out = (target == 255) | (target > 4) | (target < 0)
        for loss in self.variants():
            value, grad = value_and_grad(loss, student, teacher, target)
            assert_no_gradient(grad, left_out)
            assert loss(student, teacher, target.masked_fill(left_out, 255)) == value
            value, grad = value_and_grad(loss, student, teacher, torch.full((2, 28, 36), 255))
            assert value == 0
            assert not grad.any()

    def test_what_it_needs(self) -> None:
        for width in (1, 4):
            with pytest.raises(SegkdError, match=f"edge_width that is odd and at least 3, got {width}"):
                BPKD(width)
        with pytest.raises(SegkdError, match="temperature"):
            BPKD(temperature=0.0)
        with pytest.raises(SegkdError, match="bpkd compares by class: it needs labels"):
            BPKD()(*pair())
        with pytest.raises(SegkdError, match=r"with B=2, got \(3, 7, 9\)"):
            BPKD()(*pair(), torch.zeros(3, 7, 9, dtype=torch.long))


def assert_no_gradient(grad: torch.Tensor, where: torch.Tensor) -> None:
    assert not grad.movedim(1, -1)[where].any()
    assert grad.movedim(1, -1)[~where].any()


def test_boundaries_are_dilation_less_erosion():
    target = some_labels((2, 16, 24), 3, 0.05)
    valid = target != 255
    labels = target.masked_fill(~valid, 0)
    one_hot = F.one_hot(labels, 3).movedim(-1, 1).float() * valid[:, None]
    for width in (3, 5):
        dilated, eroded = (F.max_pool2d(x, width, 1, width // 2) for x in (one_hot, -one_hot))
        expected = F.avg_pool2d((dilated + eroded) * valid[:, None], 4)
        torch.testing.assert_close(boundaries(labels, valid, 3, width, (4, 6)), expected, rtol=0, atol=0)
