from typing import Any

from torch import nn

from segkd.losses import PixelKD
from segkd.network import Network

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    options = dict(row.params)
    network = Network(nn.Identity(), class_map=options.pop("map"), student_classes=row.student.shape[1])
    loss = PixelKD(**options, ignore_index=255)
    return row.figures(loss(row.student, network.map_classes(row.teacher), row.inputs.get("target")))
