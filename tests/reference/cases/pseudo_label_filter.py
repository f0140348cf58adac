from typing import Any

import torch

from segkd.losses.pseudo_labels import PseudoLabels, quantile_cuts

from ..row import Row


def figures(row: Row) -> dict[str, Any]:
    count, quantile = row.params["classes"], row.params["quantile"]
    if row.params["unit"] == "pixel":
        log_p = row.teacher.log_softmax(1)
        losses, classes = -log_p.amax(1).flatten(), log_p.argmax(1).flatten()
    else:
        losses, classes = row.inputs["losses"], row.inputs["classes"] % count
    cuts = quantile_cuts(losses, classes, count, quantile)
    kept = losses[losses < cuts[classes]]
    if row.params["unit"] == "pixel":
        # A student that is the teacher has its cross-entropy with its own argmax: the same losses.
        value = PseudoLabels(threshold=0, quantile=quantile)(row.teacher, row.teacher)
    else:
        value = kept.mean()
    present = torch.unique(classes)
    return {"value": value.item(), "kept": len(kept), "cuts": cuts[present].tolist()}
