from typing import Any

from segkd.losses import DIST

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(DIST(**row.params)(row.student, row.teacher))
