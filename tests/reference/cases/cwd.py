from typing import Any

from segkd.losses import CWD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(CWD(**row.params)(row.student, row.teacher))
