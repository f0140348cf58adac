"""Distillation losses: a function and a thin module each, called ``loss(student, teacher, target=None)``."""

from segkd.losses.cwd import CWD, cwd
from segkd.losses.icsd import ICSD, icsd, inter_class_similarity
from segkd.losses.pixel_kd import PixelKD, pixel_kd
from segkd.losses.pkd import PKD, pkd

__all__ = ["CWD", "ICSD", "PKD", "PixelKD", "cwd", "icsd", "inter_class_similarity", "pixel_kd", "pkd"]
