"""Stored teachers: their outputs for each view of an image, kept in files and read instead of running them."""

from typing import Literal

Kept = Literal["auto", "float16", "bfloat16", "int8"]
"""The type in which values are stored; ``auto`` is their own. All are read back in their own type."""
Compression = Literal["none", "zstd"]
