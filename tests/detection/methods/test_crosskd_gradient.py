"""CrossKD against the reference figures, and which parts of the student its gradient reaches."""

from typing import Any

import pytest
import torch
from detection.detectors import DENSE, detector, records
from detection.figures import FIGURES, uniform
from recipe import normal
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from segkd.detection.gfl import GFL, GFLHead
from segkd.detection.heads import dense_head
from segkd.detection.methods.crosskd import CrossKD, CrossKDBox, CrossKDClass
from segkd.detection.output import DenseOutput

BRANCHES = {"class": CrossKDClass, "box": CrossKDBox}


def gradients(module: nn.Module) -> dict[str, float | None]:
    return {n: None if p.grad is None else p.grad.norm().item() for n, p in module.named_parameters()}


def reference_head(seed: int, scale: float) -> GFLHead:
    head = GFLHead(16, 5, groups=4).double()
    with torch.no_grad():
        for tower, convs, norms in ((head.class_tower, seed, seed + 20), (head.box_tower, seed + 10, seed + 30)):
            for i, (conv, norm, _) in enumerate(tower):
                conv.weight.copy_(normal(convs + i, [16, 16, 3, 3], 0.1))
                norm.weight.copy_(normal(norms + i, [16], 0.2, 1.0))
                norm.bias.copy_(normal(norms + 4 + i, [16], 0.2))
        for predictor, number, outputs, bias in (
            (head.class_predictor, 40, 5, -2.0),
            (head.box_predictor, 41, 68, 0.0),
        ):
            predictor.weight.copy_(normal(seed + number, [outputs, 16, 3, 3], 0.1))
            predictor.bias.fill_(bias)
        head.scales.fill_(scale)
    return head


def reference_output(losses: list[CrossKD], head: GFLHead, x: Tensor, matched: list[Tensor] | None) -> DenseOutput:
    backbone = nn.Identity()
    backbone.out_channels = 64
    model = GFL(backbone, 5)
    model.head = head
    view = dense_head(model)
    return DenseOutput(
        ImageList(x, []), {8: x}, view, *view.run([x], {(loss.branch, loss.index) for loss in losses}), matched
    )


@pytest.mark.parametrize("case", FIGURES["crosskd_gfl"]["cases"], ids=lambda case: str(case["reused_index"]))
def test_reference(case: dict[str, Any]) -> None:
    base = FIGURES["crosskd_gfl"]["base_seed"]
    losses = [CrossKDClass(case["reused_index"]), CrossKDBox(case["reused_index"])]
    student, teacher = reference_head(base + 100, 0.9), reference_head(base + 300, 1.3).requires_grad_(False)
    x = normal(base + 70, [2, 16, 6, 7]).requires_grad_()
    # Whatever it learns, an anchor of weight 0 is one that is ignored; three positives make the average factor 3.
    taking_part = uniform(base + 72, [2, 42]) > 0.1
    matched = torch.where(taking_part, -1, -2)
    for image, count in enumerate((1, 2)):
        matched[image, torch.where(taking_part[image])[0][:count]] = 0
    s = reference_output(losses, student, x, list(matched))
    t = reference_output(losses, teacher, normal(base + 71, [2, 16, 6, 7], 1.5, 0.3), None)

    crossed = [loss.cross(s, t) for loss in losses]
    close = {"rel": 1e-5}
    assert crossed[0]["cls_logits"].norm().item() == pytest.approx(case["reused_cls_logits_l2"], **close)
    assert crossed[1]["bbox_regression"].norm().item() == pytest.approx(case["reused_reg_logits_l2"], **close)
    values = [weight * loss(s, t, []) for weight, loss in zip((1, 4), losses, strict=True)]
    assert values[0].item() == pytest.approx(case["loss_cls"], **close)
    assert values[1].item() == pytest.approx(case["loss_reg"], **close)

    sum(values).backward()
    assert x.grad.norm().item() == pytest.approx(case["student_input_grad_l2"], **close)
    expected, found = case["grad_l2"], gradients(student)
    for tower, key in (("class_tower", "cls_tower"), ("box_tower", "reg_tower")):
        for i, figure in enumerate(expected[key]):
            name = f"{tower}.{i}.0.weight"
            assert found.pop(name) == (None if figure is None else pytest.approx(figure, **close)), name
    assert expected["student_cls_predictor"] is expected["student_reg_predictor"] is None
    for name, norm in found.items():
        assert norm is None or "_tower" in name, name
    assert not any(gradients(teacher).values())


@pytest.mark.parametrize("branch", BRANCHES)
@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("kind", DENSE)
def test_gradient_reaches_exactly_the_blocks_before_the_index(kind: str, index: int, branch: str) -> None:
    loss = BRANCHES[branch](index)
    student, teacher = detector(kind, 0), detector(kind, 1)
    loss(*records([loss], student, teacher)).backward()
    head = dense_head(student)
    reached = {id(p) for i in range(index) for p in head.blocks(loss.branch, i)[: head.step].parameters()}
    assert len(reached) == 0 if index == 0 else len(reached) > index
    for name, parameter in student.head.named_parameters():
        if id(parameter) in reached:
            assert parameter.grad.isfinite().all(), name
            # A bias before a norm per channel, or before alignment, moves nothing.
            assert parameter.grad.any() or name.endswith("bias"), name
        else:
            assert parameter.grad is None, name
    for name, parameter in student.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(p.grad.any() for p in student.backbone.stages[0].parameters())
    assert all(p.grad is None for p in teacher.parameters())
