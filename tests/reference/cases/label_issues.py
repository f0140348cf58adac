from typing import Any

from segkd.segmentation.label_issues import label_issues

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    found = label_issues(row.teacher, row.inputs["target"], **row.params)
    return {
        "value": found.scores.mean().item(),
        "image_scores": found.scores.tolist(),
        "issues": found.likely,
        "issue_pixels": found.pixels.flatten(1).sum(1).tolist(),
        "thresholds": found.thresholds.tolist(),
    }
