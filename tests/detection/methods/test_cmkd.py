import pytest
import torch
from detection.detectors import distil
from detection.methods.base import IMAGES, MethodTests, tiny
from recipe import normal

from segkd import Term
from segkd.detection.methods.cmkd import CMKD
from segkd.errors import SegkdError


class TestCMKD(MethodTests):
    loss = CMKD
    settings = ({}, {"empty_weight": 0.05, "features": 1.0, "boxes": 0.5})
    kinds = ("gfl", "retinanet", "fcos")
    needs_boxes = False

    def test_is_the_sum_of_its_parts(self) -> None:
        student, teacher = tiny("retinanet", 0), tiny("retinanet", 1)
        parts = [{"features": 0.0, "scores": 0.0, "boxes": 0.0, name: 1.0} for name in ("features", "scores", "boxes")]
        values = [
            distil(student, teacher, {"own": Term(CMKD(**each))})(IMAGES, None).terms["own"]
            for each in (*parts, {"features": 1.0, "scores": 1.0, "boxes": 1.0})
        ]
        assert min(values) > 0
        torch.testing.assert_close(sum(values[:3]), values[3])

    def test_boxes_count_by_the_teachers_probability(self) -> None:
        student, teacher, logits = normal(0, [2, 5, 4]), normal(1, [2, 5, 4]), normal(2, [2, 5, 3], 2.0, -4.0)
        expected = 0.0
        for image in range(2):
            rows = [(float(logits[image, n].sigmoid().sum()), student[image, n] - teacher[image, n]) for n in range(5)]
            kept = [(q, d) for q, d in rows if q > 0.1]
            for q, d in kept:
                each = torch.where(d.abs() < 1, 0.5 * d.square(), d.abs() - 0.5).sum()
                expected += q * float(each) / len(kept) / 2
        assert expected > 0
        assert CMKD().of_boxes(student, teacher, logits).item() == pytest.approx(expected)

    def test_a_teacher_that_sees_nothing(self) -> None:
        student = normal(0, [1, 3, 2, 2]).requires_grad_()
        for weight in (0.0, 0.05):
            value = CMKD(empty_weight=weight).of_features(student, torch.zeros(1, 3, 2, 2).double())
            assert value.item() == pytest.approx(student.square().mean().item() if weight else 0.0)
            assert torch.autograd.grad(value, student)[0].isfinite().all()

    def test_gradcheck(self) -> None:
        features, scores, boxes = (
            normal(seed, shape).requires_grad_() for seed, shape in enumerate([[2, 3, 2, 3], [2, 4, 3], [2, 4, 4]])
        )
        loss, logits = CMKD(empty_weight=0.05), normal(5, [2, 4, 3])
        assert torch.autograd.gradcheck(lambda x: loss.of_features(x, normal(3, [2, 3, 2, 3])), features)
        assert torch.autograd.gradcheck(lambda x: loss.of_scores(x, logits), scores)
        assert torch.autograd.gradcheck(lambda x: loss.of_boxes(x, normal(6, [2, 4, 4]), logits), boxes)

    @pytest.mark.parametrize("wrong", [{"features": -1.0}, {"empty_weight": 2.0}, {"threshold": -0.1}, {"beta": 0.5}])
    def test_numbers_out_of_their_range(self, wrong: dict[str, float]) -> None:
        with pytest.raises(SegkdError, match=next(iter(wrong))):
            CMKD(**wrong)
