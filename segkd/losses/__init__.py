"""Distillation losses: a function and a thin module each, called ``loss(student, teacher, target=None)``.

The two on rows of a detection head, ``quality_focal_kd`` and ``distribution_kl``, are functions only: their weights and
normalisers change with every batch.
"""

from segkd.losses.cwd import CWD, cwd
from segkd.losses.distribution_kl import distribution_kl
from segkd.losses.icsd import ICSD, icsd, inter_class_similarity
from segkd.losses.pixel_kd import PixelKD, pixel_kd
from segkd.losses.pkd import PKD, pkd
from segkd.losses.quality_focal_kd import quality_focal_kd

__all__ = [
    "CWD",
    "ICSD",
    "PKD",
    "PixelKD",
    "cwd",
    "distribution_kl",
    "icsd",
    "inter_class_similarity",
    "pixel_kd",
    "pkd",
    "quality_focal_kd",
]
