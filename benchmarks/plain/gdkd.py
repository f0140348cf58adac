from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import softmax


def plain(loss: Any, student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    likeliest = torch.zeros_like(teacher).scatter(1, teacher.topk(loss.k, 1).indices, 1.0)
    return (grouped(student, teacher, likeliest, loss.temperature, loss.w0, loss.w1, loss.w2)).mean()


def grouped(
    student: Tensor, teacher: Tensor, group: Tensor, temperature: float, masses: float, inside: float, outside: float
) -> Tensor:
    """Return at each pixel the weighted KL of the masses, within the group and within the rest."""
    p_s, p_t = (softmax(z / temperature, 1) for z in (student, teacher))
    total = torch.zeros_like(p_s[:, 0])
    of_masses = []
    for weight, part in ((inside, group), (outside, 1 - group)):
        (m_s, q_s), (m_t, q_t) = (share(p * part) for p in (p_s, p_t))
        of_masses.append((m_s, m_t))
        if weight:
            total = total + weight * (q_t * ((q_t + 1e-30).log() - (q_s + 1e-30).log())).sum(1)
    for m_s, m_t in of_masses:
        total = total + masses * m_t * (m_t.log() - m_s.log())
    return total * temperature**2


def share(p: Tensor) -> tuple[Tensor, Tensor]:
    mass = p.sum(1)
    return mass, p / mass[:, None]
