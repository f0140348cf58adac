from typing import Any

import torch
from torchvision.models.detection.image_list import ImageList

from segkd.detection.atss import atss_assign
from segkd.detection.priors import SquarePriors

from ..row import Row

SIZES = ((32, 40), (16, 20), (8, 10), (4, 5), (2, 3))
"""Rows and columns of each level of an image of 320 x 256 pixels."""


def figures(row: Row) -> dict[str, Any]:
    images = ImageList(torch.zeros(1, 1, 256, 320), [])
    (priors,) = SquarePriors()(images, [torch.zeros(1, 1, *size) for size in SIZES])
    found = []
    for image in row.expected["all"]:
        boxes = image["gt_boxes"]
        assigned = atss_assign(priors, [rows * columns for rows, columns in SIZES], torch.tensor(boxes).view(-1, 4))
        positive = torch.where(assigned >= 0)[0]
        indices = {"positive_prior_index": positive.tolist(), "positive_gt_index": assigned[positive].tolist()}
        found.append({"gt_boxes": boxes, **indices})
    return {"all": found}
