from typing import Any

from segkd.detection.methods.dual_relation import PixelRelation

from ..row import Row, grad_l2


def figures(row: Row) -> dict[str, Any]:
    loss = PixelRelation(row.student.shape[1], row.teacher.shape[1], row.params["nodes"]).double()
    row.put(loss, **{name: name for name in row.weights})
    value = loss(row.student, row.teacher) * row.params["weight"]
    return {
        **row.figures(value),
        "parts": {
            "student_relation_l2": loss.student(row.student).norm().item(),
            "teacher_relation_l2": loss.teacher(row.teacher).norm().item(),
            "teacher_state_grad_l2": grad_l2(value, [loss.teacher.state.weight]),
        },
    }
