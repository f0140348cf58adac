from typing import Any

from segkd.losses import BPKD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    loss, pair = BPKD(**row.params), (row.student, row.teacher, row.inputs["target"])
    edge, body = loss.parts(*pair)
    return row.figures(loss(*pair), edge=loss.edge_weight * edge, body=loss.body_weight * body)
