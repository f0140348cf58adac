from typing import Any

from segkd.losses import CIRKDMiniBatch

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(CIRKDMiniBatch(**row.params)(row.student, row.teacher))
