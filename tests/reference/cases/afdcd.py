from typing import Any

import torch

from segkd.losses import AfDCD

from ..row import Row
from .mgd import prepared


def figures(row: Row) -> dict[str, Any]:
    loss = prepared(AfDCD(reconstruction_weight=1.0, contrast_weight=1.0, **row.params), row)
    value, parts = loss(row.student, row.teacher), dict[str, torch.Tensor]()
    for part, loss.reconstruction_weight, loss.contrast_weight in (("reconstruction", 1, 0), ("contrast", 0, 1)):
        parts[part] = loss(row.student, row.teacher)
    return row.figures(value, *loss.parameters(), **parts)
