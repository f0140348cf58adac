from typing import Any

from segkd.losses import GDKD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    return row.figures(GDKD(**row.params, ignore_index=255)(row.student, row.teacher, row.inputs.get("target")))
