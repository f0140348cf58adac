"""A teacher's classes in the student's."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from segkd.errors import SegkdError


class ClassMap(NamedTuple):
    """Which of a teacher's classes make up each of the student's.

    Attributes:
        groups: of each class of the student those of the teacher.
        total: how many classes the teacher has.
    """

    groups: list[list[int]]
    total: int


def merged_classes(class_map: Sequence[int | None]) -> ClassMap:
    """Return a class map by the student's classes.

    Args:
        class_map: for each class of the teacher that of the student, or None.

    Raises:
        SegkdError: a class of the student is left without one.
    """
    classes = {student for student in class_map if student is not None}
    missing = sorted(set(range(max(classes, default=-1) + 1)) - classes)
    if not classes or missing or min(classes) < 0:
        raise SegkdError(
            f"class_map must give each student class at least one teacher class; missing: {missing or 'all'}"
        )
    groups = [[teacher for teacher, student in enumerate(class_map) if student == c] for c in sorted(classes)]
    return ClassMap(groups, len(class_map))


def map_classes(logits: Tensor, class_map: ClassMap) -> Tensor:
    """Return a teacher's logits (B, C_t, h, w) in the student's classes (B, C_s, h, w).

    Raises:
        SegkdError: the map is of another number of classes.
    """
    if class_map.total != logits.shape[1]:
        raise SegkdError(
            f"class_map has {class_map.total} entries, the teacher {logits.shape[1]} classes: one for each"
        )
    # The logarithm of a sum of probabilities: merged classes keep their joint share.
    return torch.stack([logits[:, group].logsumexp(1) for group in class_map.groups], 1)
