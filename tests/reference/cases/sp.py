from typing import Any

from segkd.losses import SP

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(SP(**row.params)(row.student, row.teacher))
