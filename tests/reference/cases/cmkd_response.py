from typing import Any

from segkd.detection.methods import CMKD

from ..row import Row, grad_l2


def figures(row: Row) -> dict[str, Any]:
    loss = CMKD(beta=row.params["beta"], threshold=row.params["threshold"])
    value = row.params["weight"] * loss.of_scores(row.student, row.teacher)
    return {
        "value": value.item(),
        "student_grad_l2": grad_l2(value, [row.student]),
        "parts": {"normaliser": loss.found(row.teacher).flatten().tolist()},
    }
