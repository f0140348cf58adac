from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from segkd.detection.output import DenseOutput


def plain(loss: Any, student: DenseOutput, teacher: DenseOutput, target: Any) -> Tensor:
    """Box by box."""
    p_s, p_t = (output.predictions["cls_logits"].sigmoid() for output in (student, teacher))
    found = []
    for image, (of_box, labelled) in enumerate(zip(student.match(target), target, strict=True)):
        for box, label in enumerate(labelled["labels"] - 1):
            priors = of_box == box
            if priors.any():
                log_s, log_t = (p[image, priors, label].log_softmax(0) for p in (p_s, p_t))
                found.append(kl_div(log_s, log_t, log_target=True, reduction="sum"))
    return torch.stack(found).mean()
