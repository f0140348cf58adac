import copy
import doctest
from typing import Any

import pytest
import torch
from detection.detectors import (
    DENSE,
    FAMILIES,
    NO_BOXES,
    OTHER,
    WiderFPN,
    assert_sound,
    batch,
    crosskd,
    detector,
    distil,
    pkd,
)
from detection.tiny import TinyFPN
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.detection.adapter import DetectionAdapter
from segkd.detection.methods.crosskd import CrossKDBox
from segkd.detection.output import DenseOutput, DetectorOutput, TwoStageOutput
from segkd.errors import SegkdError
from segkd.losses import PKD

TWO_STAGE = ("faster_rcnn", "mask_rcnn")
IMAGES, TARGETS = batch()


def calls(*modules: nn.Module) -> list[nn.Module]:
    """Return a list to which each module adds itself whenever it runs."""
    ran: list[nn.Module] = []
    for module in modules:
        module.register_forward_hook(lambda module, inputs, output: ran.append(module))
    return ran


class TestTaskLoss:
    @pytest.mark.parametrize("kind", [*DENSE, *TWO_STAGE])
    def test_is_what_the_detector_gives(self, kind: str) -> None:
        # Of several sizes to draw, and in a two-stage detector of proposals: the same ones from the same seed.
        student = detector(kind, min_size=(96, 128, 160))
        torch.manual_seed(3)
        expected = student(IMAGES, TARGETS)
        torch.manual_seed(3)
        out = distil(student, None, {})(IMAGES, TARGETS)
        assert list(out.parts) == list(expected)
        for name, value in expected.items():
            torch.testing.assert_close(out.parts[name], value.detach(), rtol=1e-5, atol=1e-6, msg=name)
        torch.testing.assert_close(out.loss, sum(expected.values()))
        assert out.teacher is None

    @pytest.mark.parametrize("kind", FAMILIES)
    def test_is_the_same_in_evaluation_mode(self, kind: str) -> None:
        distiller = distil(detector(kind), None, {})
        torch.testing.assert_close(distiller(IMAGES, TARGETS).loss, distiller.eval()(IMAGES, TARGETS).loss)

    def test_of_two_stages_needs_training_mode(self) -> None:
        with pytest.raises(SegkdError, match=r"losses in training mode only: call distiller.train\(\)"):
            distil(detector("faster_rcnn"), None, {}).eval()(IMAGES, TARGETS)

    @pytest.mark.parametrize("kind", [*FAMILIES, "faster_rcnn"])
    def test_without_boxes(self, kind: str) -> None:
        distiller = distil(detector(kind), None, {})
        for targets in ([NO_BOXES] * 2, [NO_BOXES, {key: TARGETS[1][key] for key in NO_BOXES}]):
            assert_sound(distiller, distiller(IMAGES, targets))

    def test_targets_are_left_as_they_are(self) -> None:
        targets = copy.deepcopy(TARGETS)
        distil(detector("gfl", min_size=64), None, {})(IMAGES, targets)
        torch.testing.assert_close(targets, TARGETS, rtol=0, atol=0)

    def test_is_the_detectors_business(self) -> None:
        with pytest.raises(SegkdError, match="detectors bring their own losses: leave task_loss"):
            Distiller(detector("gfl"), None, {}, nn.MSELoss(), adapter=DetectionAdapter())(IMAGES, TARGETS)

    def test_needs_sound_targets(self) -> None:
        distiller = distil(detector("retinanet"), None, {})
        boxes = TARGETS[1]["boxes"].clone()
        boxes[0, 2] = boxes[0, 0]
        with pytest.raises(SegkdError, match=r"targets\[1\]: box 0 is .* x1 < x2"):
            distiller(IMAGES, [TARGETS[0], {**TARGETS[1], "boxes": boxes}])
        with pytest.raises(SegkdError, match=r"label 3: .* labels lie in 1..2"):
            distiller(IMAGES, [TARGETS[0], {**TARGETS[1], "labels": TARGETS[1]["labels"] + 1}])


class TestInputs:
    def adapter(self, **teacher: Any) -> DetectionAdapter:
        adapter = DetectionAdapter()
        adapter.prepare(detector("gfl", min_size=(64, 96, 128, 160)), detector("gfl", 1, min_size=999, **teacher), {})
        return adapter

    def test_both_see_the_same_resized_images(self) -> None:
        adapter = self.adapter()
        for_student, for_teacher, targets = adapter.inputs(IMAGES, TARGETS)
        assert for_teacher.images.tensors is for_student.images.tensors
        assert for_teacher.images.image_sizes == for_student.images.image_sizes
        assert for_student.targets is targets
        for image, size, before, after in zip(IMAGES, for_student.images.image_sizes, TARGETS, targets, strict=True):
            ratio = torch.tensor([size[1] / image.shape[2], size[0] / image.shape[1]] * 2)
            torch.testing.assert_close(after["boxes"], before["boxes"] * ratio)

    def test_sizes_are_drawn_in_training_alone(self) -> None:
        adapter = self.adapter()
        drawn = {adapter.inputs(IMAGES, TARGETS)[0].images.image_sizes[1] for _ in range(30)}
        assert drawn == {(64, 64), (96, 96), (128, 128), (160, 160)}
        adapter.transform.eval()
        assert {adapter.inputs(IMAGES, TARGETS)[0].images.image_sizes[1] for _ in range(30)} == {(160, 160)}

    def test_the_teachers_own_normalisation_with_padding_of_zeros(self) -> None:
        adapter = self.adapter(**OTHER)
        for_student, for_teacher, _ = adapter.inputs(IMAGES)
        mean_s, std_s = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        mean_t, std_t = torch.tensor(OTHER["image_mean"]), torch.tensor(OTHER["image_std"])
        padded = False
        pairs = zip(for_student.images.tensors, for_teacher.images.tensors, strict=True)
        for (s, t), (height, width) in zip(pairs, for_student.images.image_sizes, strict=True):
            raw = s[:, :height, :width] * std_s[:, None, None] + mean_s[:, None, None]
            expected = torch.zeros_like(t)
            expected[:, :height, :width] = (raw - mean_t[:, None, None]) / std_t[:, None, None]
            torch.testing.assert_close(t, expected, rtol=1e-4, atol=1e-5)
            padded |= (height, width) != t.shape[1:]
        assert padded

    def test_a_teacher_sees_what_it_would_see_alone(self) -> None:
        student, teacher = detector("gfl"), detector("gfl", 1, **OTHER)
        out = distil(student, teacher, crosskd())(IMAGES, TARGETS)
        alone, _ = teacher.transform(IMAGES)
        expected = teacher.head(list(teacher.backbone(alone.tensors).values()))
        torch.testing.assert_close(out.teacher.predictions, expected, rtol=1e-4, atol=1e-4)

    def test_uint8_images_are_refused(self) -> None:
        with pytest.raises(SegkdError, match=r"images\[0\] must be a float tensor .* got torch.uint8 \(3, 128, 100\)"):
            self.adapter().inputs([(image * 255).byte() for image in IMAGES], TARGETS)


class TestStrides:
    def test_pkd_pairs_them(self) -> None:
        student, teacher = detector("retinanet"), detector("mask_rcnn", 1)
        out = distil(student, teacher, pkd())(IMAGES, TARGETS)
        assert list(out.student.maps) == [8, 16, 32, 64, 128]
        assert list(out.teacher.maps) == [4, 8, 16, 32, 64]
        expected = sum(PKD()(out.student.maps[stride], out.teacher.maps[stride]) for stride in (8, 16, 32, 64))
        torch.testing.assert_close(out.terms["pkd"], expected.detach())

    def test_nothing_to_pair(self) -> None:
        class Coarse(TinyFPN):
            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return {"last": list(super().forward(x).values())[-1]}

        teacher = detector("retinanet", 1)
        teacher.backbone = Coarse()
        student = detector("faster_rcnn")
        with pytest.raises(SegkdError, match="'fpn' has 4, 8, 16, 32, 64, the teacher's 'fpn' 128: nothing to pair"):
            distil(student, teacher, pkd())


class TestWhatRuns:
    @pytest.mark.parametrize("kind", FAMILIES)
    def test_pkd_alone_leaves_the_teachers_head_out(self, kind: str) -> None:
        student, teacher = detector(kind), detector(kind, 1)
        ran = calls(student.head, teacher.head, teacher.backbone)
        distiller = distil(
            student,
            teacher,
            pkd() | {"deep": Term(PKD(), student="backbone.fpn.layer_blocks.0", teacher="backbone.fpn.layer_blocks.0")},
        )
        out = distiller(IMAGES, TARGETS)
        assert teacher.head not in ran
        assert (ran.count(student.head), ran.count(teacher.backbone)) == (2, 2)  # the trial run, and the step
        assert type(out.teacher) is DetectorOutput
        assert isinstance(out.student, DenseOutput)

    def test_a_two_stage_teacher_stops_at_its_fpn(self) -> None:
        teacher = detector("faster_rcnn", 1)
        ran = calls(teacher.rpn, teacher.roi_heads)
        distil(detector("fcos"), teacher, pkd())(IMAGES, TARGETS)
        assert ran == []

    @pytest.mark.parametrize("kind", FAMILIES)
    def test_crosskd_runs_each_head_once(self, kind: str) -> None:
        student, teacher = detector(kind), detector(kind, 1)
        distiller = distil(student, teacher, crosskd() | pkd())
        ran = calls(student.head, teacher.head)
        out = distiller(IMAGES, TARGETS)
        assert ran == [teacher.head, student.head]
        assert set(out.student.towers) == set(out.teacher.towers) == {("class", 3), ("box", 3)}
        assert not out.teacher.predictions["cls_logits"].requires_grad

    def test_a_term_may_read_a_module_of_the_head(self) -> None:
        path = "head.classification_head.conv.0"
        out = distil(detector("retinanet"), detector("retinanet", 1), {"pkd": Term(PKD(), student=path, teacher=path)})(
            IMAGES, TARGETS
        )
        assert out.terms["pkd"] > 0

    def test_a_two_stage_student(self) -> None:
        out = distil(detector("faster_rcnn"), detector("mask_rcnn", 1), pkd())(IMAGES, TARGETS)
        assert isinstance(out.student, TwoStageOutput)
        assert set(out.parts) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}


class TestConstruction:
    @pytest.mark.parametrize(
        ("student", "teacher", "terms", "says"),
        [
            (
                "gfl",
                "fcos",
                crosskd(),
                "'class': CrossKDClass needs heads of the same family, the student's has gfl, the teacher's fcos",
            ),
            ("retinanet_atss", "retinanet", crosskd(), "same anchors per cell, the student's has 1, the teacher's 9"),
            ("gfl", "faster_rcnn", crosskd(), "'class' reads 'head', which the teacher, a two-stage detector, has not"),
            ("faster_rcnn", "gfl", crosskd(), "'class' reads 'head', which the student, a two-stage detector, has not"),
            (
                "gfl",
                "gfl",
                {"a": Term(CrossKDBox(), connector="conv1x1")},
                r"'a': CrossKDBox takes no connector of its term: .* CrossKDBox\(channels=...\)",
            ),
            ("gfl", "gfl", {"a": Term(CrossKDBox(), teacher="fpn")}, "'a': CrossKDBox reads 'head' on both sides"),
            (
                "gfl",
                "gfl",
                crosskd(channels=(64, 96)),
                r"64 channels, the teacher's 64: give CrossKDClass channels=\[64, 64\]",
            ),
            ("gfl", "gfl", pkd(size="label"), "'pkd': .* size cannot be 'label'"),
            ("gfl", "gfl", {"kd": Term(PKD())}, "the student has no module 'logits'"),
        ],
    )
    def test_terms_that_do_not_fit(self, student: str, teacher: str, terms: dict[str, Term], says: str) -> None:
        with pytest.raises(SegkdError, match=says) as error:
            distil(detector(student), detector(teacher, 1), terms)
        assert "\n" not in str(error.value)

    def test_other_classes(self) -> None:
        teacher = detector("gfl", 1)
        teacher.head.num_classes = 7
        with pytest.raises(SegkdError, match="same num classes, the student's has 2, the teacher's 7"):
            distil(detector("gfl"), teacher, crosskd())
        distil(detector("gfl"), teacher, pkd())

    def test_other_channels_without_connector(self) -> None:
        hint = r"has 64 channels, the teacher's 96: give CrossKDClass channels=\[64, 96\]"
        with pytest.raises(SegkdError, match=hint):
            distil(detector("fcos"), detector("fcos", 1, channels=96), crosskd(2))
        distil(detector("fcos"), detector("fcos", 1, channels=96), crosskd(2, channels=[64, 96]))

    def test_other_strides(self) -> None:
        class Finer(TinyFPN):
            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return super().forward(nn.functional.interpolate(x, scale_factor=2))

        with pytest.raises(SegkdError, match=r"same FPN strides, the student's has \[8, .*teacher's \[4, "):
            distil(detector("retinanet"), detector("retinanet", 1, backbone=Finer()), crosskd())

    def test_what_is_no_detector(self) -> None:
        for models in ((nn.Conv2d(3, 3, 1), detector("gfl")), (detector("gfl"), nn.Conv2d(3, 3, 1))):
            with pytest.raises(SegkdError, match=r"the (student|teacher): a Conv2d has no dense head"):
                distil(*models, pkd())

    def test_trying_the_models_out_moves_nothing(self) -> None:
        student, teacher = detector("retinanet", backbone=WiderFPN()), detector("retinanet", 1)
        before, state = copy.deepcopy(student.state_dict()), torch.get_rng_state()
        distil(student, teacher, crosskd() | pkd())
        torch.testing.assert_close(student.state_dict(), before, rtol=0, atol=0)
        assert torch.equal(torch.get_rng_state(), state)
        assert student.training


def test_the_docstring_example_holds() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(
        DetectionAdapter, globs={"DetectionAdapter": DetectionAdapter}
    )
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
    assert example.examples
