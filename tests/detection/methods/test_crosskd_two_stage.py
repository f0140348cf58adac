from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from detection.detectors import detector, distil
from detection.methods.base import IMAGES, TARGETS, MethodTests, tiny
from recipe import normal
from torch import Tensor

from segkd import Term
from segkd.detection.methods.crosskd_two_stage import CrossKDTwoStage, best_class_l1
from segkd.errors import SegkdError


def distiller(student: str, teacher: str, **weights: float) -> Any:
    """Return one of this term alone; weights that are not given are 0."""
    models = tiny(student, 0), tiny(teacher, 1)
    for model in models:
        model.roi_heads.detections_per_img = 2  # what the trial run finds masks for
    return distil(
        *models,
        {"own": Term(CrossKDTwoStage(3.0, *(weights.get(name, 0.0) for name in ("classes", "box", "mask"))))},
        task_weight=0.0,
    )


def of_both(distiller: Any, run: Callable[[Any, dict[str, Tensor], Any], Any]) -> tuple[Tensor, list[Any]]:
    """Return the term's value, and what the teacher's heads give of the student's maps and of the teacher's."""
    out = distiller(IMAGES, TARGETS)
    heads, student, teacher = distiller.teacher.roi_heads, out.student, out.teacher
    maps = dict(zip(teacher.named, student.maps.values(), strict=True))
    return out.terms["own"], [run(heads, x, student) for x in (maps, teacher.named)]


def boxes(heads: Any, maps: dict[str, Tensor], student: Any) -> Any:
    pooled = heads.box_roi_pool(maps, student.regions.all, student.images.image_sizes)
    return heads.box_predictor(heads.box_head(pooled))


def masks(heads: Any, maps: dict[str, Tensor], student: Any) -> tuple[Tensor, int]:
    pooled = heads.mask_roi_pool(maps, student.regions.with_object, student.images.image_sizes)
    return heads.mask_predictor(heads.mask_head(pooled)), sum(map(len, student.regions.all))


class TestCrossKDTwoStage(MethodTests):
    loss = CrossKDTwoStage
    settings = ({"temperature": 2.0},)
    kinds = ("faster_rcnn",)
    needs_boxes = False
    needs_heads = True

    def test_the_formula_of_classes(self) -> None:
        value, ((r, _), (t, _)) = of_both(distiller("faster_rcnn", "faster_rcnn", classes=0.5), boxes)
        expected = 0.5 * 9 * F.kl_div((r / 3).log_softmax(1), (t / 3).softmax(1), reduction="sum") / len(r)
        torch.testing.assert_close(value, expected.detach())

    def test_the_formula_of_boxes(self) -> None:
        value, ((_, r), (logits, t)) = of_both(distiller("faster_rcnn", "faster_rcnn", box=2.0), boxes)
        weight, best = logits.softmax(1)[:, 1:].max(1)
        gaps = [(a - b)[4 * i + 4 : 4 * i + 8].abs().sum() for a, b, i in zip(r, t, best.tolist(), strict=True)]
        expected = 2 * (weight * torch.stack(gaps)).sum() / (4 * weight.sum())
        torch.testing.assert_close(value, expected.detach())

    def test_the_formula_of_masks(self) -> None:
        own = distiller("mask_rcnn", "mask_rcnn", mask=1.0)
        value, ((r, count), (t, _)) = of_both(own, masks)
        assert 0 < len(r) < count
        p, q = (x[:, 1:].sigmoid() for x in (r, t))
        entropy = -(q * p.log() + (1 - q) * (1 - p).log())
        torch.testing.assert_close(value, (entropy * (p - q).abs()).sum().detach() / count)

    @pytest.mark.parametrize(("student", "teacher"), [("faster_rcnn", "mask_rcnn"), ("mask_rcnn", "faster_rcnn")])
    def test_masks_of_one_side_alone_are_not_compared(self, student: str, teacher: str) -> None:
        assert distiller(student, teacher, mask=1.0)(IMAGES, TARGETS).terms["own"] == 0

    def test_the_regions_are_the_students(self) -> None:
        own = distiller("mask_rcnn", "mask_rcnn", box=1.0)
        given: list[Any] = []
        hooks = [
            heads.box_roi_pool.register_forward_pre_hook(lambda _, inputs: given.append(inputs[1]))
            for heads in (own.student.roi_heads, own.teacher.roi_heads)
        ]
        out = own(IMAGES, TARGETS)
        for hook in hooks:
            hook.remove()
        assert len(given) == 3  # the student's, and the teacher's heads twice
        for regions in given:
            assert all(map(torch.equal, regions, given[0]))
        for all_of_image, some in zip(given[0], out.student.regions.with_object, strict=True):
            assert 0 < len(some) < len(all_of_image)
            assert {*map(tuple, some.tolist())} <= {*map(tuple, all_of_image.tolist())}

    def test_the_students_heads_and_rpn_get_no_gradient(self) -> None:
        own = self.distiller("faster_rcnn", {}, detector("faster_rcnn", 3, min_size=64))
        own(IMAGES, TARGETS).loss.backward()
        reached = {name.split(".")[0] for name, p in own.student.named_parameters() if p.grad is not None}
        grads = [p.grad for name, p in own.student.named_parameters() if not name.startswith("backbone.")]
        assert "backbone" in reached
        assert all(grad is None or not grad.any() for grad in grads)

    def test_the_teachers_rpn_does_not_run(self) -> None:
        own, ran = distiller("faster_rcnn", "faster_rcnn", box=1.0), []
        hook = own.teacher.rpn.register_forward_hook(lambda *_: ran.append(1))
        own(IMAGES, TARGETS)
        hook.remove()
        assert ran == []

    def test_what_does_not_fit(self) -> None:
        for settings, says in (
            ({"temperature": 0.0}, "temperature must be above 0, got 0.0"),
            ({"box_weight": -1.0}, "crosskd_two_stage's box_weight must be finite and at least 0, got -1.0"),
        ):
            with pytest.raises(SegkdError, match=says):
                CrossKDTwoStage(**settings)
        term = {"own": Term(CrossKDTwoStage())}
        for kinds, side in ((("gfl", "faster_rcnn"), "student"), (("faster_rcnn", "gfl"), "teacher")):
            with pytest.raises(SegkdError, match=f"'own' reads 'regions', which the {side}, a one-stage detector"):
                distil(tiny(kinds[0], 0), tiny(kinds[1], 1), term)
        with pytest.raises(SegkdError, match="regions that a student in training learns from: give boxes"):
            distil(tiny("faster_rcnn", 0), tiny("faster_rcnn", 1), term)(IMAGES, None)
        output = distiller("faster_rcnn", "faster_rcnn", box=1.0)(IMAGES, TARGETS)
        del output.student.maps[8]
        with pytest.raises(SegkdError, match=r"strides \[8\], which the student has not: it has \[4, 16, 32, 64\]"):
            CrossKDTwoStage()(output.student, output.teacher)


class TestBestClassL1:
    def test_gradcheck_and_no_gradient_into_the_teacher(self) -> None:
        student, teacher = (normal(seed, [7, 3, 4]).requires_grad_() for seed in (0, 1))
        probability = normal(2, [7, 4]).softmax(1)[:, 1:].requires_grad_()
        assert torch.autograd.gradcheck(lambda s: best_class_l1(s, teacher, probability), (student,))
        best_class_l1(student, teacher, probability).backward()
        assert teacher.grad is None
        assert probability.grad is None
        assert best_class_l1(student, student, probability) == 0

    def test_without_regions_it_is_zero(self) -> None:
        student = torch.zeros(0, 3, 4, requires_grad=True)
        value = best_class_l1(student, torch.zeros(0, 3, 4), torch.zeros(0, 3))
        value.backward()
        assert value == 0

    def test_shapes_are_named(self) -> None:
        with pytest.raises(SegkdError, match=r"got \(5, 3, 4\), \(5, 3, 4\), \(5, 4\)"):
            best_class_l1(torch.zeros(5, 3, 4), torch.zeros(5, 3, 4), torch.zeros(5, 4))
