from typing import Any

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d, one_hot, softmax


def plain(loss: Any, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    classes, size, width = student.shape[1], student.shape[2:], loss.edge_width
    valid = (target != loss.ignore_index)[:, None]
    own = one_hot(target.where(valid[:, 0], classes), classes + 1)[..., :classes].permute(0, 3, 1, 2).float()
    band = max_pool2d(own, width, 1, width // 2) + max_pool2d(1 - own, width, 1, width // 2) - 1
    labelled = adaptive_avg_pool2d(valid.float(), size)
    edge = adaptive_avg_pool2d(band * valid, size) * labelled
    body = (1 - edge) * labelled
    p_s, p_t = (softmax(edge * z / loss.temperature, 1) for z in (student, teacher))
    phi = (p_t * (p_t.log() - p_s.log())).sum(1, keepdim=True)
    of_class = (phi * edge).sum((2, 3)) / (edge > 0).sum((2, 3)).clamp(min=1)
    of_edge = loss.alpha * of_class.sum(1).mean()
    q_s, q_t = (softmax((body * z).flatten(2) / loss.temperature, 2) for z in (student, teacher))
    of_body = (q_t * (q_t.log() - q_s.log())).sum(2).mean()
    return (loss.edge_weight * of_edge + loss.body_weight * of_body) * loss.temperature**2
