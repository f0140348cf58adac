from typing import Any

from segkd.losses import CAMKD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    options = dict(row.params)
    teachers = row.teacher.chunk(options.pop("teachers"))
    variant = "released" if options.pop("released") else "paper"
    return row.figures(CAMKD(**options, variant=variant)(row.student, teachers, row.inputs["target"]))
