from typing import Any

from segkd.losses import PixelKD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(PixelKD(**row.params)(row.student, row.teacher))
