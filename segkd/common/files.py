"""Writing a file whole or not at all: beside its place first, then moved there."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from segkd.errors import DiskFull

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How libraries that write from C++ or Rust name the same three.
_FULL_TEXT = re.compile(rf"os error ({'|'.join(map(str, _FULL))})\b|{'|'.join(map(os.strerror, _FULL))}")


@contextlib.contextmanager
def replacing(path: Path, *, size: int | None = None, sync: bool = True, scratch: Path | None = None) -> Iterator[Path]:
    """Give a path to write to; what is written there takes the place of `path` at the end, unless there is an error.

    Killed in between, it leaves the scratch file, which the next attempt overwrites.

    Args:
        path: the file; its folder must exist.
        size: how many bytes are written, where that is known beforehand: for the message of `DiskFull`.
        sync: wait until the bytes are on the disk, so that a power cut leaves either the old file or the new one.
        scratch: where to write first, on the same disk; ``.tmp.<name>`` beside `path` unless given.
    """
    scratch = scratch or path.with_name(f".tmp.{path.name}")
    try:
        scratch.touch()
        mode = scratch.stat().st_mode
        yield scratch
        scratch.chmod(mode)  # some libraries write files that only their owner may read
        if sync:
            _sync(scratch)
        os.replace(scratch, path)
        if sync and os.name == "posix":  # a folder's entries have to be written too; Windows has no such call
            _sync(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        if is_disk_full(error):
            raise disk_full(path, size) from error
        raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str, scratch: Path | None = None) -> None:
    """Write a text file, UTF-8, by `replacing`."""
    content = text.encode()
    with replacing(path, size=len(content), scratch=scratch) as place:
        place.write_bytes(content)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full, or that a file is larger than is allowed."""
    is_named = getattr(error, "errno", None) in _FULL or bool(_FULL_TEXT.search(str(error)))
    return is_named and not isinstance(error, DiskFull)


def disk_full(path: Path, needed: int | None = None) -> DiskFull:
    """Return the error for a file, of so many bytes if that is known, that there is no room for."""
    free = shutil.disk_usage(path.parent).free
    sizes = f"{free} bytes are free" if needed is None else f"{needed} bytes needed, {free} free"
    return DiskFull(f"{path} cannot be written: the disk is full or a limit is reached ({sizes})")
