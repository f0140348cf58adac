from typing import Any

from segkd.losses import FitNet

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    loss = FitNet(**row.params)
    loss.prepare(row.student, row.teacher)
    row.put(loss.double(), **{"connector.weight": "connector"})
    return row.figures(loss(row.student, row.teacher), *loss.parameters())
