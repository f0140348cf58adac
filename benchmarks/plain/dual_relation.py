from typing import Any

import torch
from torch import Tensor

from segkd.detection.methods.dual_relation import distance, regions
from segkd.detection.output import DetectorOutput


def plain(loss: Any, student: DetectorOutput, teacher: DetectorOutput, target: Any) -> Tensor:
    total, width = torch.zeros(()), student.images.tensors.shape[-1]
    for level, layers in loss.pixels.items():
        s, t = student.maps[int(level)], teacher.maps[int(level)]
        pixel = layers.adapter(graph(layers.student, s)) - graph(layers.teacher, t)
        total = total + loss.pixel * pixel.norm()
        if level in loss.relations:
            of_s, of_t = regions(s, target, width), regions(t, target, width)
            relation = loss.relations[level](of_s, of_t, [(None, None)] * len(of_s))
            total = total + loss.relation * relation + loss.region * distance(loss.adapters[level], of_s, of_t)
    return total


def graph(layers: Any, x: Tensor) -> Tensor:
    """GloRe as it is drawn: pixels are reduced, projected to nodes, mixed, projected back and extended."""
    reduced = torch.einsum("sc,bchw->bshw", layers.state.weight, x) + layers.state.bias[:, None, None]
    share = layers.project(x).flatten(2)
    nodes = reduced.flatten(2) @ share.transpose(1, 2)
    mixed = (layers.nodes(nodes) + nodes).relu()
    mixed = layers.states(mixed.transpose(1, 2)).transpose(1, 2)
    back = (mixed @ share).view(len(x), -1, *x.shape[2:])
    return x + layers.norm(torch.einsum("cs,bshw->bchw", layers.extend.weight, back))
