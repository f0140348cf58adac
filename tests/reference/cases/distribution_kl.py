from typing import Any

from segkd.losses import distribution_kl

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(distribution_kl(row.student, row.teacher, **row.params))
