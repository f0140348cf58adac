from typing import Any

import torch.nn.functional as F

from segkd.losses import CIRKDChannel
from segkd.losses._queue import Queue

from ..row import Row
from .cirkd_memory import PROJECTOR


def figures(row: Row) -> dict[str, Any]:
    queue = row.inputs["queue"]
    loss = CIRKDChannel(**row.params, slots=len(queue), relation_weight=1.0, memory_weight=1.0, mse_weight=1.0)
    loss.prepare(row.student, row.teacher)
    row.put(loss.double(), **PROJECTOR)
    loss.queue = Queue(F.normalize(queue, dim=-1)[None])
    parts = loss.parts(row.student, row.teacher)
    return row.figures(sum(parts.values()), *loss.parameters(), **parts)
