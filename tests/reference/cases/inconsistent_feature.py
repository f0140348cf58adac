from typing import Any

from segkd.detection.methods import InconsistentKD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    loss = InconsistentKD()
    loss.prepare(row.student, row.teacher)
    loss.double()
    if row.weights:
        row.put(loss, **{f"layers.0.{name}": f"align.{name}" for name in ("weight", "bias")})
    return row.figures(row.params["weight"] * loss(row.student, row.teacher))
