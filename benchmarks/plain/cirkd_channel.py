from typing import Any

from plain.cirkd_minibatch import relations
from torch import Tensor
from torch.nn.functional import avg_pool2d, kl_div, log_softmax, mse_loss, normalize, softmax


def plain(loss: Any, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    s, t = (avg_pool2d(x, loss.pool, ceil_mode=True) for x in (student, teacher))
    s, t = (normalize(x.flatten(2), dim=2) for x in (loss.projector(s), t))
    drawn = loss.remembered(t.flatten(0, 1))  # the queue is drawn from and written in one way
    log_s = log_softmax(s.flatten(0, 1) @ drawn.T / loss.temperature, 1)
    memory = kl_div(log_s, softmax(t.flatten(0, 1) @ drawn.T / loss.temperature, 1), reduction="batchmean")
    relation = relations(s, t, loss.temperature)
    return loss.relation_weight * relation + loss.memory_weight * memory + loss.mse_weight * mse_loss(s, t)
