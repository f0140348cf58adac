import pytest
import torch
from detection.detectors import detector, distil
from detection.methods.base import IMAGES, TARGETS, MethodTests
from recipe import normal

from segkd import Term
from segkd.detection.methods.fgd import FGD, FocalLevel, GlobalContext, background_mask, foreground_mask
from segkd.errors import SegkdError


class TestFGD(MethodTests):
    loss = FGD
    settings = ({}, {"variant": "released", "temperature": 0.8})
    needs_boxes = False
    zero = False  # the two context blocks differ once trained

    def test_starts_with_the_same_context_on_both_sides(self) -> None:
        student = detector("gfl")
        distiller = distil(student, detector("gfl"), {"own": Term(FGD(gamma=0.0))})
        assert distiller.eval()(IMAGES, TARGETS).terms["own"] == 0

    def test_two_stages_are_compared_up_to_p5(self) -> None:
        strides = {
            pair: list(distil(*map(detector, pair), {"own": Term(FGD())}).losses["own"].levels)
            for pair in (("faster_rcnn", "mask_rcnn"), ("retinanet", "mask_rcnn"))
        }
        assert list(strides.values()) == [["4", "8", "16", "32"], ["8", "16", "32", "64"]]

    def test_strides_are_named(self) -> None:
        terms = {"own": Term(FGD(strides=[16, 8]))}
        assert list(distil(detector("gfl"), detector("gfl"), terms).losses["own"].levels) == ["16", "8"]
        with pytest.raises(
            SegkdError, match=r"fgd compares levels of strides \[4\], and .* share \[8, 16, 32, 64, 128"
        ):
            distil(detector("gfl"), detector("gfl"), {"own": Term(FGD(strides=[4]))})

    def test_options_and_labels_that_do_not_fit(self) -> None:
        with pytest.raises(SegkdError, match="fgd has no variant 'releast', did you mean 'released'"):
            FGD(variant="releast")
        with pytest.raises(SegkdError, match="temperature must be above 0"):
            FGD(temperature=0.0)
        distiller = distil(detector("gfl"), detector("gfl"), {"own": Term(FGD())})
        with pytest.raises(SegkdError, match="term 'own': FGD reads labels, and this batch has none"):
            distiller(IMAGES, None)
        with pytest.raises(SegkdError, match=r"call prepare\(student, teacher\) first"):
            FGD()(None, None, TARGETS)

    def test_the_released_way_stretches_masks_in_padded_images(self) -> None:
        distiller = distil(detector("gfl"), detector("gfl"), {"own": Term(FGD())})
        out, (_, _, targets) = distiller(IMAGES, TARGETS), distiller.adapter.inputs(IMAGES, TARGETS)
        masks = [FGD(variant=variant).foreground(out.student, targets, 8) for variant in ("paper", "released")]
        assert out.student.images.tensors.shape[2:] == (192, 128)
        assert out.student.images.image_sizes == [(163, 128), (128, 128)]
        assert not any(torch.equal(*pair) for pair in zip(*masks, strict=True))
        bottom = [int(mask[1].any(1).nonzero().max()) for mask in masks]
        assert bottom[1] > bottom[0]


def test_masks_of_boxes() -> None:
    boxes = torch.tensor([[8.0, 8.0, 23.0, 15.0], [16.0, 0.0, 24.0, 8.0], [-30.0, 30.0, 3.0, 99.0]])
    mask = foreground_mask(boxes, (40, 48), (5, 6))
    expected = torch.zeros(5, 6)
    expected[1:3, 1:4] = 1 / 6
    expected[0:2, 2:4] = 1 / 4
    expected[3:5, 0:2] = 1 / 6  # rows 3 to 5 of columns 0 to 1, of which row 5 is beyond the map
    torch.testing.assert_close(mask, expected)
    background = background_mask(mask)
    torch.testing.assert_close(background, (expected == 0) / (expected == 0).sum())
    assert not background_mask(torch.ones(2, 3)).any()
    assert not foreground_mask(torch.zeros(0, 4), (40, 48), (5, 6)).any()


def test_gradcheck_of_a_level() -> None:
    torch.manual_seed(0)
    level = FocalLevel(3, 4).double()
    for context in (level.context_s, level.context_t):
        torch.nn.init.normal_(context.expand.weight)
    student, teacher = normal(0, [2, 3, 2, 3]).requires_grad_(), normal(1, [2, 4, 2, 3])
    mask = torch.tensor([[[0.5, 0, 0], [0.5, 0, 0]], [[0.0, 0, 0], [0, 0, 0]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: tuple(level(s, teacher, mask, 0.7).values()), (student,))


def test_a_context_adds_nothing_at_the_start() -> None:
    assert not GlobalContext(1)(torch.randn(2, 1, 3, 4)).any()
