from typing import Any

from segkd.losses import PKD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(PKD(**row.params)(row.student, row.teacher))
