from typing import Any

from segkd.losses import ICKD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    loss = ICKD(grid=row.params["grid"])
    loss.prepare(row.student, row.teacher)
    loss.double()
    if row.weights and row.student.shape[1] != row.teacher.shape[1]:  # else there is no connector
        row.put(loss, **{"layers.0.0.weight": "connector", "layers.0.1.weight": "norm_weight"})
        row.put(loss, **{"layers.0.1.bias": "norm_bias"})
    return row.figures(loss(row.student, row.teacher), *loss.parameters())
