from typing import Any

from segkd.losses import Pairwise

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(Pairwise(**row.params)(row.student, row.teacher))
