from typing import Any

from segkd.detection.methods import CrossKDTwoStage
from segkd.detection.methods.crosskd_two_stage import best_class_l1

from ..row import Row, grad_l2


def figures(row: Row) -> dict[str, Any]:
    options = {{"cls_weight": "class_weight"}.get(name, name): value for name, value in row.params.items()}
    loss = CrossKDTwoStage(**options)
    student_box = row.inputs["student_box"].requires_grad_()
    of_class = loss.class_weight * loss.of_classes(row.student, row.teacher)
    probability = row.teacher.softmax(1)[:, :-1]
    student, teacher = (x.unflatten(1, (-1, 4)) for x in (student_box, row.inputs["teacher_box"]))
    of_box = loss.box_weight * best_class_l1(student, teacher, probability)
    parts = {"cls": of_class.item(), "box": of_box.item(), "student_box_grad_l2": grad_l2(of_box, [student_box])}
    return {**row.figures(of_class + of_box), "parts": parts}
