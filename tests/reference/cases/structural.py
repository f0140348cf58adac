from typing import Any

from segkd.losses import Structural

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    options = dict(row.params)
    flat, share = options.pop("flat_teacher_image"), options.pop("teacher_plus_student")
    teacher = row.teacher + share * row.student.detach() if share else row.teacher.clone()
    if flat is not None:
        teacher[flat] = 0.75
    loss = Structural(**options).double()
    loss.prepare(row.student, teacher)
    row.put(loss.double(), **{name.replace("adapter", "layers.0"): name for name in row.weights})
    return row.figures(loss(row.student, teacher), *loss.parameters())
