"""Teachers stored instead of run: what they gave for each view of an image, in files."""

from typing import Literal

Kept = Literal["auto", "float16", "bfloat16", "int8"]
"""In what type values are kept: ``auto`` is the one in which they arise. All come back in that one."""
Compression = Literal["none", "zstd"]
