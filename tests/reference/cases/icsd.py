from typing import Any

from segkd.losses import ICSD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(ICSD(**row.params)(row.student, row.teacher))
