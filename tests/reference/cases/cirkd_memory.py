from typing import Any

import torch.nn.functional as F

from segkd.losses import CIRKDMemory

from ..row import Row

PROJECTOR = {
    "projector.0.weight": "conv1",
    "projector.1.weight": "norm_weight",
    "projector.1.bias": "norm_bias",
    "projector.3.weight": "conv2",
}


def figures(row: Row) -> dict[str, Any]:
    slots = {f"{queue}_slots": row.inputs[f"{queue}_queue"].shape[1] for queue in ("pixel", "region")}
    variant = "released" if row.params["variant"] == "released" else "paper"
    loss = CIRKDMemory(**{**row.params, "variant": variant}, **slots)
    loss.prepare(row.student, row.teacher)
    row.put(loss.double(), **PROJECTOR)
    queues = {"pixel": loss.pixels, "region": loss.regions}
    for name, queue in queues.items():
        queue.vectors.copy_(F.normalize(row.inputs[f"{name}_queue"], dim=-1))
    parts = loss.parts(row.student, row.teacher, row.inputs["target"])
    found = row.figures(parts["pixel"] + parts["region"], *loss.parameters(), **parts)
    for name, queue in queues.items():
        found |= {f"{name}_queue_sum": queue.vectors.sum().item(), f"{name}_pointers": queue.pointer.tolist()}
    return found
