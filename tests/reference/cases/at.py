from typing import Any

from segkd.losses import AT

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(AT(**row.params)(row.student, row.teacher))
