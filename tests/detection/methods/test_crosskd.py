import copy
import math
from typing import Any

import pytest
import torch
from detection.detectors import CLASSES, DENSE, FAMILIES, NO_BOXES, batch, detector, records
from recipe import normal
from torch import Tensor

from segkd.detection.methods.crosskd import CrossKD, CrossKDBox, CrossKDClass, align_statistics, average_factor
from segkd.detection.output import DenseOutput
from segkd.errors import SegkdError
from segkd.losses import quality_focal_kd

BRANCHES = {"class": CrossKDClass, "box": CrossKDBox}


def taking_part(student: DenseOutput, targets: Any) -> Tensor:
    """Return (B, N), the anchors that the assigner does not ignore and that are no padding of the batch."""
    inside = []
    for anchors, (height, width) in zip(student.anchors, student.images.image_sizes, strict=True):
        x, y = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
        inside.append((x < math.ceil(width / 32) * 32) & (y < math.ceil(height / 32) * 32))
    assert not all(of_image.all() for of_image in inside)
    return (torch.stack(student.match(targets)) != -2) & torch.stack(inside)


class TestAlignStatistics:
    def test_has_the_teachers_mean_and_deviation(self) -> None:
        student, teacher = normal(0, [2, 5, 4, 6], 3.0, 1.0), normal(1, [2, 5, 4, 6], 0.5, -2.0)
        aligned = align_statistics(student, teacher)
        for statistic in (torch.mean, torch.std):
            torch.testing.assert_close(
                statistic(aligned, (0, 2, 3)), statistic(teacher, (0, 2, 3)), rtol=1e-5, atol=1e-6
            )
        # A linear map of each channel, and of it alone.
        s, a = student[:, 2].flatten(), aligned[:, 2].flatten()
        assert torch.corrcoef(torch.stack([s, a]))[0, 1].item() == pytest.approx(1, abs=1e-12)

    def test_the_formula(self) -> None:
        student, teacher = (
            torch.tensor([1.0, 2.0, 6.0]).view(1, 1, 1, 3),
            torch.tensor([10.0, 10.0, 40.0]).view(1, 1, 1, 3),
        )
        expected = (student - 3) / (math.sqrt(7) + 1e-6) * math.sqrt(300) + 20
        torch.testing.assert_close(align_statistics(student, teacher), expected)

    @pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 3, 1, 1), (1, 3, 4, 5)])
    def test_a_constant_channel_becomes_the_teachers_mean_without_gradient(self, shape: tuple[int, ...]) -> None:
        student, teacher = torch.full(shape, 0.5, requires_grad=True), torch.randn(shape)
        aligned = align_statistics(student, teacher)
        torch.testing.assert_close(aligned, teacher.mean((0, 2, 3), keepdim=True).expand(shape))
        aligned.square().sum().backward()
        assert torch.equal(student.grad, torch.zeros(shape))

    def test_a_constant_teacher(self) -> None:
        student = torch.randn(2, 3, 4, 5, requires_grad=True)
        aligned = align_statistics(student, torch.full((2, 3, 4, 5), 2.0))
        torch.testing.assert_close(aligned, torch.full((2, 3, 4, 5), 2.0))
        aligned.sum().backward()
        assert student.grad.isfinite().all()

    def test_gradient_flows_through_the_students_statistics_alone(self) -> None:
        student, teacher = (normal(seed, [2, 2, 2, 3]).requires_grad_() for seed in (0, 1))
        assert torch.autograd.gradcheck(lambda s: align_statistics(s, teacher), (student,))
        align_statistics(student, teacher).square().sum().backward()
        assert student.grad.any()
        assert teacher.grad is None
        # A shift of the student changes nothing, so the gradient sums to nothing.
        assert student.grad.sum((0, 2, 3)).abs().max() < 1e-9

    def test_is_float32_under_autocast(self) -> None:
        student, teacher = torch.randn(2, 3, 4, 5).bfloat16(), torch.randn(2, 3, 4, 5).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            aligned = align_statistics(student, teacher)
        torch.testing.assert_close(aligned, align_statistics(student.float(), teacher.float()), rtol=0, atol=0)

    def test_wrong_shapes_are_named(self) -> None:
        with pytest.raises(SegkdError, match=r"got \(2, 3, 4, 5\) and \(2, 4, 4, 5\)"):
            align_statistics(torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 4, 5))


@pytest.mark.parametrize("kind", DENSE)
class TestBothLosses:
    def test_are_zero_where_the_student_is_the_teacher(self, kind: str) -> None:
        # Cross-entropy has an entropy that it cannot come below.
        losses = [loss for index in (0, 2, 4) for loss in (CrossKDClass(index), CrossKDBox(index, centerness=0.0))]
        student = detector(kind)
        if kind not in ("gfl", "atss"):
            with torch.no_grad():
                # Boxes of some size: one without area has no IoU with itself either.
                student.head.regression_head.bbox_reg.weight.mul_(0.1)
                student.head.regression_head.bbox_reg.bias.fill_(1)
        outputs = records(losses, student, copy.deepcopy(student))
        for loss in losses:
            assert abs(loss(*outputs).item()) < 1e-3, loss

    def test_are_finite_without_boxes_and_reach_the_student(self, kind: str) -> None:
        losses = [loss() for loss in BRANCHES.values()]
        student = detector(kind)
        outputs = records(losses, student, detector(kind, 1), batch()[0], [NO_BOXES] * 2)
        total = sum(loss(*outputs) for loss in losses)
        assert 0 < total < 1e4
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())

    def test_a_single_small_image_gives_no_nan(self, kind: str) -> None:
        # P6 and P7 are of one cell: there is no deviation.
        losses = [loss(index) for loss in BRANCHES.values() for index in (0, 3)]
        student, teacher = (detector(kind, seed, min_size=64) for seed in (0, 1))
        target = {"boxes": torch.tensor([[4.0, 8.0, 60.0, 60.0]]), "labels": torch.tensor([1])}
        outputs = records(losses, student, teacher, [torch.rand(3, 64, 64)], [target])
        assert [tuple(x.shape[2:]) for x in outputs[0].maps.values()][-2:] == [(1, 1), (1, 1)]
        total = sum(loss(*outputs) for loss in losses)
        assert total.isfinite()
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())

    def test_extreme_predictions_stay_finite(self, kind: str) -> None:
        losses = [loss() for loss in BRANCHES.values()]
        student, teacher = detector(kind), detector(kind, 1)
        with torch.no_grad():
            for parameter in teacher.head.parameters():
                parameter.mul_(30)
        total = sum(loss(*records(losses, student, teacher)) for loss in losses)
        assert total.isfinite()
        total.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in student.parameters())

    def test_autocast_is_close_to_float32(self, kind: str) -> None:
        losses = [loss() for loss in BRANCHES.values()]
        student, teacher = detector(kind), detector(kind, 1)
        expected = [loss(*records(losses, student, teacher)) for loss in losses]
        with torch.autocast("cpu", torch.bfloat16):
            outputs = records(losses, student, teacher)
            found = [loss(*outputs) for loss in losses]
        assert outputs[1].towers["class", 3][0].dtype == torch.bfloat16
        assert {value.dtype for value in found} == {torch.float32}
        torch.testing.assert_close(found, expected, rtol=0.1, atol=0.01)

    def test_what_the_teacher_predicts_in_the_padding_does_not_count(self, kind: str) -> None:
        losses = [loss() for loss in BRANCHES.values()]
        student, teacher, targets = records(losses, detector(kind), detector(kind, 1))
        before = [loss(student, teacher, targets) for loss in losses]
        centres = (student.anchors[1][:, :2] + student.anchors[1][:, 2:]) / 2
        assert student.images.image_sizes[1] == (128, 128)
        assert student.images.tensors.shape[2:] == (192, 128)
        padding = centres[:, 1] >= 128
        assert 0 < padding.sum() < len(padding) / 2
        for place in (padding, ~padding):
            for name in ("cls_logits", "bbox_regression"):
                teacher.predictions[name][1, place] += 1 + torch.rand_like(teacher.predictions[name][1, place])
            after = [loss(student, teacher, targets) for loss in losses]
            assert [a.item() == b.item() for a, b in zip(after, before, strict=True)] == [place is padding] * 2

    def test_a_connector_maps_other_channels_and_learns(self, kind: str) -> None:
        losses = [loss(3, channels=(64, 96)) for loss in BRANCHES.values()]
        student, teacher = detector(kind), detector(kind, 1, channels=96)
        outputs = records(losses, student, teacher)
        sum(loss(*outputs) for loss in losses).backward()
        for loss in losses:
            assert loss.connector.weight.shape == (96, 64, 1, 1)
            assert loss.connector.weight.grad.any()


class TestClass:
    def make(self, kind: str) -> tuple[CrossKDClass, DenseOutput, DenseOutput, Any]:
        loss = CrossKDClass()
        return loss, *records([loss], detector(kind), detector(kind, 1))

    @pytest.mark.parametrize("kind", FAMILIES)
    def test_the_formula(self, kind: str) -> None:
        loss, student, teacher, targets = self.make(kind)
        first = 1 if kind in ("retinanet", "fcos") else 0
        r, t = (x["cls_logits"][..., first:] for x in (loss.cross(student, teacher), teacher.predictions))
        assert r.shape[-1] == CLASSES
        keep = taking_part(student, targets)
        entropy = -(t.sigmoid() * r.sigmoid().log() + (1 - t.sigmoid()) * (-r).sigmoid().log())
        expected = (entropy * (r.sigmoid() - t.sigmoid()).abs())[keep].sum() / average_factor(student, targets)
        torch.testing.assert_close(loss(student, teacher, targets), expected, rtol=1e-4, atol=1e-6)

    def test_an_ignored_anchor_does_not_count(self) -> None:
        loss, student, teacher, targets = self.make("retinanet")
        matched = student.match(targets)
        for indices in matched:
            indices.fill_(-1)
        matched[0][7] = -2
        r, t = (x["cls_logits"][0, 7, 1:] for x in (loss.cross(student, teacher), teacher.predictions))
        without = loss(student, teacher, targets)
        matched[0][7] = -1
        torch.testing.assert_close(
            loss(student, teacher, targets) - without, quality_focal_kd(r, t) / 2, rtol=1e-3, atol=1e-5
        )

    @pytest.mark.parametrize("kind", ["retinanet", "fcos"])
    def test_background_does_not_count(self, kind: str) -> None:
        loss, student, teacher, targets = self.make(kind)
        before = loss(student, teacher, targets)
        teacher.predictions["cls_logits"][..., 0] += 5
        assert torch.equal(loss(student, teacher, targets), before)


class TestBox:
    @pytest.mark.parametrize("kind", ["retinanet", "fcos", "atss"])
    def test_the_formula_on_boxes(self, kind: str) -> None:
        loss = CrossKDBox(centerness=0.0)
        student, teacher, targets = records([loss], detector(kind), detector(kind, 1))
        r, t = (teacher.head.decode(x, teacher.anchors) for x in (loss.cross(student, teacher), teacher.predictions))
        low, high = torch.minimum(r, t), torch.maximum(r, t)
        inside = (low[..., 2:] - high[..., :2]).clamp(min=0).prod(-1)
        union = (r[..., 2:] - r[..., :2]).prod(-1) + (t[..., 2:] - t[..., :2]).prod(-1) - inside
        hull = (high[..., 2:] - low[..., :2]).prod(-1)
        giou = inside / (union + 1e-7) - (hull - union) / (hull + 1e-7)
        v = teacher.head.foreground(teacher.predictions).sigmoid().amax(-1)
        v[~taking_part(student, targets)] = 0
        expected = ((1 - giou) * v).sum() / average_factor(student, targets)
        torch.testing.assert_close(loss(student, teacher, targets), expected)

    def test_the_formula_on_distributions(self) -> None:
        loss = CrossKDBox()
        student, teacher, targets = records([loss], detector("gfl"), detector("gfl", 1))
        r, t = (
            x["bbox_regression"].unflatten(-1, (4, 17)).softmax(-1)
            for x in (loss.cross(student, teacher), teacher.predictions)
        )
        v = teacher.predictions["cls_logits"].sigmoid().amax(-1) * taking_part(student, targets)
        expected = ((t * (t / r).log()).sum(-1).mean(-1) * v).sum() / v.sum()
        torch.testing.assert_close(loss(student, teacher, targets), expected)

    def test_centerness_of_atss_is_cross_entropy_at_the_students_positives(self) -> None:
        whole, boxes, half = (CrossKDBox(centerness=weight) for weight in (1.0, 0.0, 0.5))
        student, teacher, targets = records([whole], detector("atss"), detector("atss", 1))
        r, t = (x["bbox_ctrness"][..., 0] for x in (whole.cross(student, teacher), teacher.predictions))
        positive = torch.stack(student.match(targets)) >= 0
        assert 0 < positive.sum() < positive.numel() / 2
        entropy = -(t.sigmoid() * r.sigmoid().log() + (1 - t.sigmoid()) * (-r).sigmoid().log())
        expected = entropy[positive].sum() / positive.sum(1).clamp(min=1).sum()
        of_boxes = boxes(student, teacher, targets)
        torch.testing.assert_close(whole(student, teacher, targets) - of_boxes, expected)
        torch.testing.assert_close(half(student, teacher, targets) - of_boxes, expected / 2)

    @pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
    def test_a_wrong_weight_of_centerness(self, weight: float) -> None:
        with pytest.raises(SegkdError, match="the centerness of CrossKDBox is a weight, at least 0, got"):
            CrossKDBox(centerness=weight)


class TestAverageFactor:
    @pytest.mark.parametrize("kind", ["retinanet", "gfl", "atss"])
    def test_counts_positives_and_one_for_an_image_without(self, kind: str) -> None:
        images, targets = batch(3)
        targets[1] = NO_BOXES
        student, _, targets = records(
            [CrossKDClass()],
            detector(kind),
            detector(kind, 1),
            images,
            [{key: target[key] for key in ("boxes", "labels")} for target in targets],
        )
        positive = (torch.stack(student.match(targets)) >= 0) & taking_part(student, targets)
        counts = positive.sum(1).tolist()
        assert counts[1] == 0 < min(counts[0], counts[2])
        assert average_factor(student, targets) == counts[0] + 1 + counts[2]

    def test_of_fcos_adds_up_centerness(self) -> None:
        student, _, targets = records([CrossKDClass(2)], detector("fcos"), detector("fcos", 1))
        expected = 0.0
        for anchors, indices, target in zip(student.anchors, student.match(targets), targets, strict=True):
            for anchor, index in zip(anchors.tolist(), indices.tolist(), strict=True):
                if index >= 0:
                    x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
                    x1, y1, x2, y2 = target["boxes"][index].tolist()
                    sides = sorted((x - x1, x2 - x)), sorted((y - y1, y2 - y))
                    expected += math.sqrt(sides[0][0] / sides[0][1] * sides[1][0] / sides[1][1])
        assert expected > 1
        assert average_factor(student, targets).item() == pytest.approx(expected, rel=1e-5)

    def test_of_fcos_is_one_without_positives(self) -> None:
        student, _, targets = records(
            [CrossKDClass(2)], detector("fcos"), detector("fcos", 1), batch()[0], [NO_BOXES] * 2
        )
        assert average_factor(student, targets) == 1


@pytest.mark.parametrize("loss", BRANCHES.values())
class TestSettings:
    @pytest.mark.parametrize("index", [-1, 5, 2.0, "3", None, True])
    def test_a_wrong_index(self, loss: type[CrossKD], index: Any) -> None:
        with pytest.raises(SegkdError, match=rf"the index of {loss.__name__} is a number of blocks, 0..4, got "):
            loss(index)

    def test_prints_its_settings(self, loss: type[CrossKD]) -> None:
        assert "index=2, channels=(64, 96)" in repr(loss(2, channels=(64, 96)))
