from typing import Any

from segkd.losses import quality_focal_kd

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(quality_focal_kd(row.student, row.teacher, **row.params))
