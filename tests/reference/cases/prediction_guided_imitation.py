from typing import Any

from torch import nn

from segkd.detection.methods import PredictionGuidedImitation

from ..row import Row, grad_l2


def figures(row: Row) -> dict[str, Any]:
    loss = PredictionGuidedImitation(**row.params)
    if row.weights:
        loss.adapter = nn.Conv2d(row.student.shape[1], row.teacher.shape[1], 1)
    row.put(loss.double(), **{name: name for name in row.weights})
    scores = row.inputs["student_cls"].requires_grad_()
    value = loss.of_level(row.student, row.teacher, scores, row.inputs["teacher_cls"])
    return {
        **row.figures(value, *loss.parameters()),
        "parts": {"student_cls_grad_l2": grad_l2(value, [scores])},
    }
