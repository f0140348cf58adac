"""Names with accents: Unicode spells one in two ways (NFC and NFD), and systems differ in which they keep."""

import os
import unicodedata
from functools import lru_cache
from pathlib import Path


def same_name(text: str) -> str:
    """Return what is equal for two names that look the same: the text in Unicode's NFC."""
    return unicodedata.normalize("NFC", text)


def on_disk(path: Path) -> Path:
    """Return a path as the disk spells it: itself if it is there, or nothing of its name is."""
    if str(path).isascii() or os.path.exists(path) or path.parent == path:
        return path
    folder = on_disk(path.parent)
    try:
        names = _names(folder, folder.stat().st_mtime_ns)
    except OSError:
        return path
    return folder / names.get(same_name(path.name), path.name)


@lru_cache(maxsize=64)
def _names(folder: Path, _changed: int) -> dict[str, str]:
    """Return each name in a folder that has accents or the like, by its form in NFC; listed anew when it changes."""
    return {same_name(name): name for name in os.listdir(folder) if not name.isascii()}
