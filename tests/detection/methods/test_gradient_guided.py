import pytest
import torch
from detection.detectors import detector, distil
from detection.methods.base import IMAGES, TARGETS, MethodTests, tiny
from recipe import normal

from segkd import Term
from segkd.detection.methods.gradient_guided import GradientGuided, activation_map, gradients
from segkd.errors import SegkdError


class TestGradientGuided(MethodTests):
    loss = GradientGuided
    settings = ({}, {"variant": "released"})
    kinds = ("gfl", "retinanet", "fcos")
    needs_boxes = False
    needs_heads = True

    def test_gradients_are_those_of_each_detectors_own_loss(self) -> None:
        distiller = distil(tiny("gfl", 0), tiny("retinanet", 1), {"own": Term(GradientGuided())})
        out, (_, _, targets) = distiller(IMAGES, TARGETS), distiller.adapter.inputs(IMAGES, TARGETS)
        for output in (out.student, out.teacher):
            maps = [x.detach().requires_grad_() for x in output.maps.values()]
            losses = output.head.head.compute_loss(
                targets, output.head.head(maps), output.anchors, output.match(targets)
            )
            expected = torch.autograd.grad(2 * sum(losses.values()), maps)
            torch.testing.assert_close(gradients(output, targets), list(expected), rtol=1e-4, atol=1e-7)

    def test_without_gradient_it_has_the_same_value(self) -> None:
        distiller = distil(tiny("gfl", 0), tiny("gfl", 1), {"own": Term(GradientGuided())})
        expected = distiller(IMAGES, TARGETS).terms["own"]
        with torch.no_grad():
            torch.testing.assert_close(distiller(IMAGES, TARGETS).terms["own"], expected)

    def test_what_does_not_fit(self) -> None:
        with pytest.raises(SegkdError, match="gradient_guided has no variant 'releasd', did you mean 'released'"):
            GradientGuided(variant="releasd")
        with pytest.raises(SegkdError, match="'own' reads 'head', which the teacher, a two-stage detector, has not"):
            distil(tiny("gfl", 0), detector("faster_rcnn"), {"own": Term(GradientGuided())})
        with pytest.raises(SegkdError, match="'own': GradientGuided reads labels, and this batch has none"):
            distil(tiny("gfl", 0), tiny("gfl", 1), {"own": Term(GradientGuided())})(IMAGES, None)


def test_gradcheck_and_other_channels() -> None:
    student, teacher = normal(0, [2, 3, 2, 3]).requires_grad_(), normal(1, [2, 5, 2, 3])
    slopes = normal(2, [2, 3, 2, 3]), normal(3, [2, 5, 2, 3])
    for variant in ("paper", "released"):
        loss = GradientGuided(variant=variant)
        assert torch.autograd.gradcheck(lambda s, loss=loss: loss.of_level(s, teacher, *slopes), (student,))


def test_a_map_goes_from_0_to_1_and_is_0_without_gradient() -> None:
    x, slope = normal(0, [2, 3, 4, 5]), normal(1, [2, 3, 4, 5])
    slope[1] = 0
    found = activation_map(x, slope)
    assert found[0].min() == 0
    assert 1 - 1e-6 < found[0].max() <= 1
    assert not found[1].any()
    assert not activation_map(x[:, :, :1, :1], slope[:, :, :1, :1]).any()
