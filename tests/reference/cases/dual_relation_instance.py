from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from segkd.detection.methods import DualRelation
from segkd.detection.methods.dual_relation import Filter
from segkd.detection.output import DetectorOutput

from ..levels import boxes_of
from ..row import Row, grad_l2

PARTS = {"relation": "relation", "instance": "region"}


class Given(DualRelation):
    """Takes the row's filters in the order of the levels, the images and both sides."""

    def given(self, row: Row) -> None:
        images = range(len(row.raw["boxes"]))
        places = [f"{side}_{level}.filter_{i}" for level in range(2) for i in images for side in ("student", "teacher")]
        self.filters = iter([tuple(row.weights.get(f"{at}.{kind}") for kind in ("weight", "bias")) for at in places])

    def draw(self, of_image: Tensor) -> Filter | None:
        weight, bias = next(self.filters)
        return None if weight is None else (weight, bias)


def figures(row: Row) -> dict[str, Any]:
    images = ImageList(torch.zeros(len(row.raw["boxes"]), 3, *row.raw["padded_size"]), [])
    sides = {
        side: {2 ** (3 + level): row.inputs[f"{side}_{level}"] for level in range(2)} for side in ("student", "teacher")
    }
    maps = [x.requires_grad_() for x in sides["student"].values()]
    student, teacher = (DetectorOutput(images, each) for each in sides.values())
    target = [{"boxes": boxes_of(boxes)} for boxes in row.raw["boxes"]]
    loss = Given(pixel=0.0, relation_filter=row.params["filter"])
    loss.prepare(student, teacher)
    loss.double()
    for level, stride in enumerate(sides["student"]):
        for side in ("student", "teacher"):
            names = [f"{linear}.{kind}" for linear in ("theta", "phi", "g", "W") for kind in ("weight", "bias")]
            of_side = getattr(loss.relations[str(stride)], side)
            row.put(of_side, **{name: f"{side}_{level}.{name}" for name in names})
        for place, adapter in (
            ("relation", loss.relations[str(stride)].adapter),
            ("instance", loss.adapters[str(stride)]),
        ):
            row.put(adapter, **{kind: f"{place}_adapter_{level}.{kind}" for kind in ("weight", "bias")})
    loss.given(row)
    terms = loss.terms(student, teacher, target)
    sums = {part: torch.stack(terms[name]).sum() * row.params["weight"] for part, name in PARTS.items()}
    parts: dict[str, Any] = {part: value.item() for part, value in sums.items()}
    parts |= {f"{part}_grad_l2": [grad_l2(value, [x]) for x in maps] for part, value in sums.items()}
    return {"value": sum(value.item() for value in sums.values()), "parts": parts}
