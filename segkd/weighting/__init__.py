"""Weights on the task loss of each pixel: one file a method, and what they share in `base`."""

from segkd.weighting.base import PixelWeighting, PixelWeights
from segkd.weighting.rdd import (
    RelativeDifficulty,
    teacher_full_difficulty,
    teacher_student_difficulty,
    true_class_probability,
)

__all__ = [
    "PixelWeighting",
    "PixelWeights",
    "RelativeDifficulty",
    "teacher_full_difficulty",
    "teacher_student_difficulty",
    "true_class_probability",
]
