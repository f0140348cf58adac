import pytest
import torch
from detection.detectors import distil
from detection.methods.base import IMAGES, MethodTests, tiny
from recipe import normal
from torch import Tensor

from segkd import Term
from segkd.detection.methods.rank_mimicking import RankMimicking
from segkd.errors import SegkdError

OF_BOX = [torch.tensor([0, 2, -1, 0, 2, 2, -2]), torch.tensor([-1] * 7), torch.tensor([0, 0, 0, -1, -1, -1, 0])]
LABELS = [torch.tensor([1, 0, 2]), torch.tensor([], dtype=torch.int64), torch.tensor([2])]


class TestRankMimicking(MethodTests):
    loss = RankMimicking
    settings = ({}, {"scores": "logit"})
    kinds = ("gfl", "retinanet", "fcos")

    def test_equals_a_loop_over_the_boxes(self) -> None:
        student, teacher = normal(0, [3, 7, 3], 2.0), normal(1, [3, 7, 3], 2.0)
        for scores in ("probability", "logit"):
            kls = []
            for s, t, of_box, labels in zip(student, teacher, OF_BOX, LABELS, strict=True):
                for box, label in enumerate(labels):
                    rows = of_box == box
                    if rows.any():
                        of_s, of_t = (x[rows, label] if scores == "logit" else x[rows, label].sigmoid() for x in (s, t))
                        kls.append((of_t.softmax(0) * (of_t.log_softmax(0) - of_s.log_softmax(0))).sum())
            assert len(kls) == 3
            found = RankMimicking(scores=scores).of_priors(student, teacher, OF_BOX, LABELS)
            torch.testing.assert_close(found, torch.stack(kls).mean())

    def test_gradcheck(self) -> None:
        def value(s: Tensor) -> Tensor:
            return RankMimicking(scores="logit").of_priors(s, normal(1, [3, 7, 3]), OF_BOX, LABELS)

        assert torch.autograd.gradcheck(value, (normal(0, [3, 7, 3]).requires_grad_(),))

    def test_extreme_scores_stay_finite(self) -> None:
        student, teacher = (normal(seed, [3, 7, 3], 60000.0).float().requires_grad_() for seed in (0, 1))
        value = RankMimicking(scores="logit").of_priors(student, teacher, OF_BOX, LABELS)
        assert value.isfinite()
        assert torch.autograd.grad(value, student)[0].isfinite().all()

    def test_what_does_not_fit(self) -> None:
        with pytest.raises(SegkdError, match="rank_mimicking has no scores 'logits', did you mean 'logit'"):
            RankMimicking(scores="logits")
        with pytest.raises(SegkdError, match="'own': RankMimicking needs heads of the same family"):
            distil(tiny("gfl", 0), tiny("fcos", 1), {"own": Term(RankMimicking())})
        with pytest.raises(SegkdError, match="'own': RankMimicking reads labels, and this batch has none"):
            distil(tiny("gfl", 0), tiny("gfl", 1), {"own": Term(RankMimicking())})(IMAGES, None)
