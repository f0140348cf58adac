from typing import Any

from torch import nn

from segkd.losses import Foundation

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    params = {key: value for key, value in row.params.items() if key != "standardise"}
    loss = Foundation(**params, standardize=row.params["standardise"])
    loss.prepare(row.student, row.teacher)
    (layers,) = loss.double().eval().layers
    if "connector" in row.weights:
        row.put(layers, **{"connector.weight": "connector", "connector.bias": "connector_bias"})
    else:
        layers.connector = nn.Identity()
    if "mean" in row.inputs:
        row.put(layers, **{"standardization.mean": "mean"})
        layers.standardization.variance.copy_(row.inputs["std"] ** 2)
    return row.figures(loss(row.student, row.teacher), *loss.parameters())
