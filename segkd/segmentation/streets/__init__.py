"""Street scenes that the package draws: the embedded default, in Cityscapes' own layout."""

from segkd.segmentation.streets.layout import Drawing, ensure_streets, write_streets
from segkd.segmentation.streets.scene import draw_scene

__all__ = ["Drawing", "draw_scene", "ensure_streets", "write_streets"]
