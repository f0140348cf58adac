from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from segkd.detection.crosskd import CrossKDBox, CrossKDClass
from segkd.detection.gfl import GFL, GFLHead
from segkd.detection.heads import dense_head
from segkd.detection.output import DenseOutput

from ..row import Row, normal, uniform

TOWERS = {"cls_tower": "class_tower", "reg_tower": "box_tower"}
PREDICTORS = {"student_cls_predictor": "class_predictor", "student_reg_predictor": "box_predictor"}


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


def figures(row: Row) -> dict[str, Any]:
    given = row.expected["all"]
    seed = given["base_seed"]
    return {"all": {"base_seed": seed, "cases": [of_index(seed, case["reused_index"]) for case in given["cases"]]}}


def of_index(seed: int, index: int) -> dict[str, Any]:
    losses = [CrossKDClass(index), CrossKDBox(index)]
    student, teacher = reference_head(seed + 100, 0.9), reference_head(seed + 300, 1.3).requires_grad_(False)
    x = normal(seed + 70, [2, 16, 6, 7]).requires_grad_()
    # Whatever it learns, an anchor of weight 0 is one that is ignored; three positives make the average factor 3.
    taking_part = uniform(seed + 72, [2, 42]) > 0.1
    matched = torch.where(taking_part, -1, -2)
    for image, count in enumerate((1, 2)):
        matched[image, torch.where(taking_part[image])[0][:count]] = 0

    def output(head: GFLHead, x: Tensor, matched: list[Tensor] | None) -> DenseOutput:
        backbone = nn.Identity()
        backbone.out_channels = 64
        model = GFL(backbone, 5)
        model.head = head
        view = dense_head(model)
        ran = view.run([x], {(loss.branch, loss.index) for loss in losses})
        return DenseOutput(ImageList(x, []), {8: x}, view, *ran, matched)

    s = output(student, x, list(matched))
    t = output(teacher, normal(seed + 71, [2, 16, 6, 7], 1.5, 0.3), None)
    crossed = [loss.cross(s, t) for loss in losses]
    of_class, of_box = losses[0](s, t, []), 4 * losses[1](s, t, [])
    (of_class + of_box).backward()

    def norm(name: str) -> float | None:
        grad = student.get_parameter(f"{name}.weight").grad
        return None if grad is None else grad.norm().item()

    grads = {key: [norm(f"{tower}.{i}.0") for i in range(4)] for key, tower in TOWERS.items()}
    grads |= {key: norm(name) for key, name in PREDICTORS.items()}
    return {
        "reused_index": index,
        "student_input_grad_l2": x.grad.norm().item(),
        "reused_cls_logits_l2": crossed[0]["cls_logits"].norm().item(),
        "reused_reg_logits_l2": crossed[1]["bbox_regression"].norm().item(),
        "loss_cls": of_class.item(),
        "loss_reg": of_box.item(),
        "grad_l2": grads,
    }


def tolerance(row: Row) -> float:
    """The figures' box branch ran in float32."""
    return 1e-5
