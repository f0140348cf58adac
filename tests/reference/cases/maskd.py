from typing import Any

from segkd.losses import MaskD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    loss = MaskD(**row.params)
    loss.prepare(row.student, row.teacher)
    loss.double()
    row.put(loss, vectors="tokens")
    return row.figures(loss(row.student, row.teacher))
