from typing import Any

from segkd.losses.attnfd import unit_difference

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(unit_difference(row.student, row.teacher))
