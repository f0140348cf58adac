from typing import Any

import torch.nn.functional as F
from torch import Tensor

from segkd.losses import KDIGA
from segkd.step import Step

from ..row import Row, grad_l2


def figures(row: Row) -> dict[str, Any]:
    def logits(side: str) -> Tensor:
        w = {name.removeprefix(f"{side}_"): weight for name, weight in row.weights.items()}
        hidden = F.conv2d(row.student, w["conv1"], w["bias1"], padding=1).tanh()
        return F.conv2d(hidden, w["conv2"], w["bias2"])

    value = KDIGA(**row.params)(logits("student"), logits("teacher"), row.inputs["target"], Step(row.student))
    own = [weight for name, weight in row.weights.items() if name.startswith("student_")]
    return {"value": value.item(), "weights_grad_l2": grad_l2(value, own)}
