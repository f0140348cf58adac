from typing import Any

import torch.nn.functional as F

from segkd.segmentation.certify import certify_counts

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    options = dict(row.params)
    first, votes = options.pop("n0"), F.one_hot(row.inputs["votes"], options.pop("classes"))
    found = certify_counts(votes[:first].sum(0).T, votes[first:].sum(0).T, **options)
    return {"value": found.radius, "classes": found.classes.tolist()}
