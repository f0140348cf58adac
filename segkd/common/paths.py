"""Paths as disks have them: accents, which Unicode spells in two ways (NFC and NFD), and what is there but no file."""

import os
import stat
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from segkd.errors import SegkdError

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a fifo", stat.S_IFSOCK: "a socket"}


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


def real_paths(paths: Iterable[Path]) -> dict[Path, str]:
    """Return of each file its path without links, by which it is known whatever way leads there."""
    found: dict[Path, str] = {}
    files = list(paths)
    # Each folder is listed once, which tells its links: to ask for each file takes minutes on a network's disk.
    for folder in {file.parent for file in files}:
        real = os.path.realpath(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                path = os.path.join(real, entry.name)
                found[folder / entry.name] = os.path.realpath(path) if entry.is_symlink() else path
    return {file: found.get(file) or os.path.realpath(file) for file in files}


def check_regular(path: Path, kind: str) -> None:
    """Raise `SegkdError` where a path is there but no file: to read a fifo or a device would wait for ever."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SegkdError(f"cannot read {kind} {shortened(path)}: {reason}") from None
    if not stat.S_ISREG(mode):
        raise SegkdError(f"cannot read {kind} {path}: it is {_KINDS.get(stat.S_IFMT(mode), 'a device')}")


def shortened(path: object, most: int = 200) -> str:
    """Return a path for a message of one line: printable, and not longer than a person reads."""
    text = str(path).encode("unicode_escape").decode() if not str(path).isprintable() else str(path)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def plain_path(text: str) -> str:
    """Return a path that a config names, its ~ a home directory, or raise ValueError where no disk can have it."""
    if "\0" in text:
        raise ValueError("a path cannot hold a NUL character")
    if len(os.fsencode(text)) > 4095 or any(len(os.fsencode(part)) > 255 for part in Path(text).parts):
        raise ValueError("a path has at most 4095 bytes, each of its parts at most 255")
    return os.path.expanduser(text)
