from typing import Any

from segkd.losses._common import valid_pixels
from segkd.losses.grouped_kd import GroupedKD, group_size

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    loss, target = GroupedKD(**row.params), row.inputs["target"]
    grouping = row.student if loss.group_by == "student" else row.teacher
    size = group_size(grouping, valid_pixels(target, 255, grouping), loss.rate, loss.step)
    return {**row.figures(loss(row.student, row.teacher, target)), "group_size": int(size)}
