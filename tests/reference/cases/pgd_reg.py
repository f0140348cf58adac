from typing import Any

from segkd.detection.methods import PGD

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    options = dict(row.params)
    important = row.inputs["importance"] * (row.inputs["importance"] >= 0.7)
    if options.pop("none"):
        important = important * 0
    value = PGD(**options).box_branch(row.student, row.teacher, important)
    return {**row.figures(value), "parts": {"fg_cells": int((important > 0).sum())}}
