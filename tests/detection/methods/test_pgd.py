import dataclasses

import pytest
import torch
from detection.detectors import detector, distil
from detection.methods.base import IMAGES, TARGETS, MethodTests, tiny
from recipe import normal
from torch import Tensor

from segkd import Term
from segkd.detection.methods.pgd import PGD, channel_shares, gaussian_of_best, importance
from segkd.errors import SegkdError

GRID = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="xy"), -1).view(-1, 2) * 8.0


class TestPGD(MethodTests):
    loss = PGD
    settings = ({}, {"variant": "released", "topk": 9})
    kinds = ("gfl", "fcos", "atss")
    needs_boxes = False

    def test_the_released_masks_act_on_every_image(self) -> None:
        student, teacher = normal(0, [2, 3, 4, 5]), normal(1, [2, 3, 4, 5])
        important = torch.zeros(2, 1, 4, 5).double()
        important[0, 0, 1, 1] = 0.5
        nothing = torch.zeros_like(important)
        own, on_all = (
            PGD(delta=0.0, variant=variant).class_branch(student, teacher, important, nothing)
            for variant in ("paper", "released")
        )
        other = PGD(delta=0.0).class_branch(student, teacher, important.flip(0), nothing)
        torch.testing.assert_close(on_all, own + other)

    def test_a_batch_without_important_positions_passes_no_gradient_to_boxes(self) -> None:
        student = normal(0, [2, 3, 4, 5]).requires_grad_()
        value = PGD().box_branch(student, normal(1, [2, 3, 4, 5]), torch.zeros(2, 1, 4, 5))
        assert value == 0
        assert not torch.autograd.grad(value, student)[0].any()

    @pytest.mark.parametrize(
        ("option", "says"),
        [
            ({"variant": "papr"}, "did you mean 'paper'"),
            ({"topk": 0}, "topk must be at least 1"),
            ({"box_exponent": 1.5}, "box_exponent must lie in"),
            ({"temperature": -1.0}, "temperature"),
        ],
    )
    def test_options_out_of_range(self, option: dict[str, float], says: str) -> None:
        with pytest.raises(SegkdError, match=says):
            PGD(**option)

    def test_heads_of_several_anchors_a_cell(self) -> None:
        with pytest.raises(SegkdError, match="'own': PGD needs heads of 1 anchor per cell, these have 9"):
            distil(detector("retinanet"), detector("retinanet"), {"own": Term(PGD())})

    def test_a_batch_without_labels(self) -> None:
        distiller = distil(tiny("gfl", 0), tiny("gfl", 1), {"own": Term(PGD())})
        with pytest.raises(SegkdError, match="'own': PGD reads labels, and this batch has none"):
            distiller(IMAGES, None)

    def test_what_is_predicted_in_padding_does_not_count(self) -> None:
        distiller = distil(tiny("gfl", 0), tiny("gfl", 1), {"own": Term(PGD())})
        out, (_, _, targets) = distiller(IMAGES, TARGETS), distiller.adapter.inputs(IMAGES, TARGETS)
        others = torch.where(out.student.in_image[..., None], out.teacher.predictions["bbox_regression"], 0.0)
        changed = dataclasses.replace(
            out.teacher, predictions={**out.teacher.predictions, "bbox_regression": others}, matched=None
        )
        for exponent in (0.8, 1.0):
            loss = PGD(class_exponent=exponent)
            sides = (loss.importances(out.student, teacher, targets) for teacher in (out.teacher, changed))
            for found, expected in zip(*sides, strict=True):
                torch.testing.assert_close(found.classes, expected.classes)

    def test_padding_has_no_importance(self) -> None:
        distiller = distil(tiny("gfl", 0), tiny("gfl", 1), {"own": Term(PGD())})
        out, (_, _, targets) = distiller(IMAGES, TARGETS), distiller.adapter.inputs(IMAGES, TARGETS)
        for found, is_in in zip(
            PGD().importances(out.student, out.teacher, targets), out.student.in_image, strict=True
        ):
            assert found.classes.any()
            assert not found.classes[~is_in].any()


def test_gradcheck_of_both_branches() -> None:
    student, teacher = normal(0, [2, 3, 2, 3]).requires_grad_(), normal(1, [2, 3, 2, 3])
    mask = torch.tensor([[[[0.5, 0, 0], [0.2, 0, 1]]], [[[0.0, 0, 0], [0, 0, 0]]]]).double()

    def both(s: Tensor) -> tuple[Tensor, Tensor]:
        loss = PGD(delta=0.1)
        return loss.class_branch(s, teacher, mask, 1 - mask), loss.box_branch(s, teacher, mask)

    assert torch.autograd.gradcheck(both, (student,))
    torch.testing.assert_close(channel_shares(student, 0.5).mean(1), torch.ones(2, 2, 3).double())


def test_places_on_one_line_and_a_single_one_stay_finite() -> None:
    quality = torch.zeros(2, 64)
    quality[0, [8, 9, 10]] = torch.tensor([0.3, 0.2, 0.1])  # a row of the grid
    quality[1, 20] = 1
    for topk in (1, 3):
        found = gaussian_of_best(quality, GRID, topk)
        assert found.isfinite().all()
        assert (found > 0).sum(1).tolist() == [topk, topk]
    assert found[0, 9] == 1
    torch.testing.assert_close(found[0, 8], torch.tensor(0.75).neg().exp(), rtol=1e-3, atol=0)


def test_importance_is_strictly_inside_the_boxes() -> None:
    boxes, labels = torch.tensor([[8.0, 8.0, 40.0, 32.0]]), torch.tensor([1])
    predicted = torch.cat([GRID - 12, GRID + 12], 1)
    found = importance(torch.rand(64, 3), predicted, GRID, boxes, labels, topk=64)
    inside = (GRID[:, 0] > 8) & (GRID[:, 0] < 40) & (GRID[:, 1] > 8) & (GRID[:, 1] < 32)
    assert torch.equal(found.classes > 0, inside)
    assert torch.equal(found.background == 0, inside)
    nothing = importance(torch.rand(64, 3), predicted, GRID, boxes[:0], labels[:0])
    assert not nothing.classes.any()
    assert nothing.background.all()
