"""Street scenes that the package draws: the embedded default, in Cityscapes' own layout."""

from segkd.data.streets.layout import Drawing, ensure_streets
from segkd.data.streets.scene import draw_scene

__all__ = ["Drawing", "draw_scene", "ensure_streets"]
