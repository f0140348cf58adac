from typing import Any

from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize, softmax

SHRINK = 2
"""At the full size plain autograd keeps some 5 GB."""


def plain(loss: Any, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    labels = target[:, :: target.shape[1] // student.shape[2], :: target.shape[2] // student.shape[3]]
    s, t = (normalize(x, dim=1).permute(0, 2, 3, 1).flatten(0, 2) for x in (loss.projector(student), teacher))
    # What enters the queues is drawn and written in one way.
    loss.enqueue(t, labels)
    valid = (labels != loss.ignore_index).flatten()
    s, t, total = s[valid], t[valid], 0.0
    for queue, count in ((loss.pixels, loss.pixel_contrasts), (loss.regions, loss.region_contrasts)):
        contrasts = loss.draw(queue, count // loss.classes + 1)
        log_s, p_t = log_softmax(s @ contrasts.T / loss.temperature, 1), softmax(t @ contrasts.T / loss.temperature, 1)
        total = total + kl_div(log_s, p_t, reduction="batchmean")
    return total
