import re
from typing import Any

from segkd.weighting import teacher_full_difficulty

from ..row import Row, normal


def figures(row: Row) -> dict[str, Any]:
    said = re.fullmatch(r"teacher \+ normal\(seed (\d+), scale ([\d.]+)\)", row.raw["aux"])
    auxiliary = row.teacher + normal(int(said[1]), list(row.teacher.shape), float(said[2]))
    weights = teacher_full_difficulty(row.teacher, auxiliary, **row.params)
    found = {"weight_mean": weights.mean().item(), "weight_std": weights.std().item()}
    for key in row.expected.keys() - found.keys():  # such as weight_0_3_5, that of one pixel
        image, y, x = map(int, key.removeprefix("weight_").split("_"))
        found[key] = weights[image, y, x].item()
    return found
