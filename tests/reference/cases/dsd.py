from typing import Any

from segkd.losses import DSD

from ..row import Row, grad_l2


def figures(row: Row) -> dict[str, Any]:
    further = [f"student{number}" for number in range(2, 9) if f"student{number}" in row.inputs]
    student = [row.student, *(row.inputs[name].requires_grad_() for name in further)]
    teacher = [row.teacher, *(row.inputs[name.replace("student", "teacher")] for name in further)]
    parts = DSD(**row.params).parts(student, teacher)
    value = parts["pixel"] + parts["category"]
    found = {"value": value.item(), "student_grad_l2": grad_l2(value, student)}
    for name, part in parts.items():
        found |= {name: part.item(), f"{name}_grad_l2": grad_l2(part, student)}
    return found
