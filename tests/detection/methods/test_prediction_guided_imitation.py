import pytest
import torch
from detection.detectors import distil
from detection.methods.base import IMAGES, MethodTests, tiny
from recipe import normal

from segkd import Term
from segkd.detection.methods.prediction_guided_imitation import PredictionGuidedImitation
from segkd.errors import SegkdError


class TestPredictionGuidedImitation(MethodTests):
    loss = PredictionGuidedImitation
    settings = ({}, {"scores": "logit", "detach": True})
    kinds = ("gfl", "retinanet", "fcos")
    needs_boxes = False

    def test_each_levels_scores_meet_its_own_features(self) -> None:
        student, teacher = tiny("retinanet", 0), tiny("retinanet", 1)
        out = distil(student, teacher, {"own": Term(PredictionGuidedImitation())})(IMAGES, None)
        levels = []
        for s, t in zip(out.student.maps.values(), out.teacher.maps.values(), strict=True):
            of_s, of_t = (
                model.head.classification_head.cls_logits(model.head.classification_head.conv(x))
                for model, x in ((student, s), (teacher, t))
            )
            of_s, of_t = (x.unflatten(1, (9, 3))[:, :, 1:].sigmoid() for x in (of_s, of_t))
            levels.append(((of_s - of_t).square().mean((1, 2)) * (s - t).square().mean(1)).mean())
        torch.testing.assert_close(out.terms["own"], torch.stack(levels).mean())

    def test_gradcheck_and_a_guide_without_gradient(self) -> None:
        student, scores = normal(0, [2, 3, 2, 3]).requires_grad_(), normal(1, [2, 4, 2, 3]).requires_grad_()
        rest = normal(2, [2, 3, 2, 3]), normal(3, [2, 4, 2, 3])
        for detach in (False, True):
            loss = PredictionGuidedImitation(detach=detach)
            if not detach:
                assert torch.autograd.gradcheck(
                    lambda s, z, loss=loss: loss.of_level(s, rest[0], z, rest[1]), (student, scores)
                )
            value = loss.of_level(student, rest[0], scores, rest[1])
            (grad,) = torch.autograd.grad(value, scores, allow_unused=True)
            assert (grad is None) == detach

    def test_scores_that_do_not_exist(self) -> None:
        with pytest.raises(SegkdError, match="did you mean 'probability'"):
            PredictionGuidedImitation(scores="probabilities")
