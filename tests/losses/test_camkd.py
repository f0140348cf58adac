import pytest
import torch
import torch.nn.functional as F
from losses.base import LossTests, pair, some_labels, value_and_grad

from segkd.errors import SegkdError
from segkd.losses import CAMKD, PixelKD
from segkd.losses.camkd import confidences


class TestCAMKD(LossTests):
    loss = CAMKD
    name = "camkd"
    settings = ({}, {"weighting": "entropy", "temperature": 1.0})

    def test_of_one_teacher_it_is_pixel_kd(self) -> None:
        student, teacher = pair(dtype=torch.float64)
        target = some_labels()
        expected = PixelKD(4.0, ignore_index=255)(student, teacher, target)
        for weighting in ("label", "entropy"):
            for variant in ("paper", "released"):
                loss = CAMKD(weighting, variant=variant)
                torch.testing.assert_close(loss(student, [teacher], target), expected)
                assert loss(student, teacher, target) == loss(student, [teacher], target)

    def test_each_teacher_counts_by_its_weight(self) -> None:
        student, first = pair(dtype=torch.float64)
        teachers, target = [first, first.flip(1), first.flip(2) / 2], some_labels()
        kl = torch.stack(
            [F.kl_div((student / 4).log_softmax(1), (t / 4).softmax(1), reduction="none").sum(1) for t in teachers]
        )
        wrong = torch.stack([F.cross_entropy(t, target, reduction="none", ignore_index=255) for t in teachers])
        expected = 16 * ((1 - wrong.softmax(0)) / 2 * kl).sum(0)[target != 255].mean()
        torch.testing.assert_close(CAMKD()(student, teachers, target), expected)
        torch.testing.assert_close(CAMKD(variant="released")(student, teachers, target), expected / 3)
        entropy = torch.stack(
            [torch.distributions.Categorical(t.softmax(1).movedim(1, -1)).entropy() for t in teachers]
        )
        expected = 16 * ((1 - entropy / entropy.sum(0)) * kl).sum(0).mean()
        torch.testing.assert_close(CAMKD("entropy")(student, teachers), expected)

    def test_weights_of_teachers_that_agree_or_are_certain(self) -> None:
        _, teacher = pair()
        for labels in (None, some_labels(ignored=0)):
            for z in (teacher, teacher.sign() * 60000):
                weights = confidences([z, z, z], labels)
                torch.testing.assert_close(weights, torch.full_like(weights, 2 / 3 if labels is None else 1 / 3))

    def test_pixels_without_label_neither_count_nor_get_a_gradient(self) -> None:
        student, teacher = pair()
        teachers, target = [teacher, teacher.flip(1)], some_labels()
        for loss in self.variants():
            value, grad = value_and_grad(loss, student, teachers, target)
            assert value > 0
            assert not grad.movedim(1, -1)[target == 255].any()
            value, grad = value_and_grad(loss, student, teachers, torch.full((2, 7, 9), 255))
            assert value == 0
            assert not grad.any()

    def test_what_it_needs(self) -> None:
        student, teacher = pair()
        with pytest.raises(SegkdError, match="camkd compares by class: it needs labels"):
            CAMKD()(student, [teacher, teacher])
        with pytest.raises(SegkdError, match=r"camkd expects .* teacher \(2, 4, 7, 9\)"):
            CAMKD()(student, [teacher, teacher[:, :4]], some_labels())
        for options, says in (
            ({"weighting": "labels"}, "no weighting 'labels', did you mean 'label'"),
            ({"variant": "x"}, "variant"),
            ({"temperature": 0.0}, "temperature"),
        ):
            with pytest.raises(SegkdError, match=says):
                CAMKD(**options)
