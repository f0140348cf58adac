from typing import Any

from segkd.losses import DKD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(DKD(**row.params)(row.student, row.teacher, row.inputs["target"]))
