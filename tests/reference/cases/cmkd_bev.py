from typing import Any

from segkd.detection.methods import CMKD

from ..row import Row, grad_l2


def figures(row: Row) -> dict[str, Any]:
    teacher = row.teacher * (row.inputs["occupied"] > 0.6)
    value = row.params["weight"] * CMKD(empty_weight=row.params["empty_weight"]).of_features(row.student, teacher)
    return {"value": value.item(), "student_grad_l2": grad_l2(value, [row.student])}
