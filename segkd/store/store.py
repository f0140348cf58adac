"""The store of one teacher on one data set: a file ``<place>/<epoch>/<index>.safetensors`` for each place and view."""

import contextlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from filelock import FileLock, Timeout

from segkd.common.files import disk_full, is_disk_full, write_text
from segkd.errors import DiskFull, SegkdError
from segkd.step import View
from segkd.store import Compression, Kept
from segkd.store.entry import Unreadable, is_whole, made_in, read_entry, write_entry

ABOUT = "about.json"
LOCKS = ".locks"
SCRATCH = ".tmp"
USER = "user."


@dataclass(frozen=True)
class Store:
    """The stored outputs of one teacher for the views of one data set.

    Any number of processes may read and write at once: an entry appears whole or not at all. One that is lost or cut is
    made again. A read-only folder can still be read.

    Attributes:
        folder: ``<root>/<key>``, see `segkd.store.key`.
        kept: the type that values are kept in.
        compress: how files are compressed.
    """

    folder: Path
    kept: Kept = "auto"
    compress: Compression = "none"

    def open(self, about: Mapping[str, Any]) -> None:
        """Make the folder with its ``about.json`` if need be, else note there that it was used now.

        Scratch files that a killed process has left are removed after an hour.

        Raises:
            SegkdError: it cannot be made.
        """
        if (self.folder / ABOUT).is_file():
            with contextlib.suppress(OSError):  # on a disk that can only be read the time of use is not noted
                os.utime(self.folder / ABOUT)
                for file in (self.folder / SCRATCH).glob("*"):
                    if file.stat().st_mtime < time.time() - 3600:
                        file.unlink(missing_ok=True)
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(dict(about), indent=2)
            write_text(self.folder / ABOUT, text, self.folder / f".tmp.about.{os.getpid()}")
        except OSError as error:
            raise self._failed(error) from error

    def path(self, place: str, view: View) -> Path:
        """Return the file of a view at a place."""
        return self.folder / quote(place, safe="") / str(view[0]) / f"{view[1]}.safetensors"

    def missing(self, views: Iterable[View], places: Collection[str]) -> list[View]:
        """Return the views, each once and in order, whose entry at one of the places is missing or broken."""
        paths = {view: [self.path(place, view) for place in places] for view in views}
        return [view for view, files in paths.items() if not all(map(is_whole, files))]

    def claim(self, name: str) -> FileLock | None:
        """Return a lock of this name, which ends with its process even if that is killed; None where one holds it.

        Raises:
            SegkdError: the folder cannot be written.
        """
        try:
            (self.folder / LOCKS).mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCKS / f"{name}.lock")
            lock.acquire(blocking=False)
        except Timeout:
            return None
        except OSError as error:
            raise self._failed(error) from error
        return lock

    def hold(self) -> list[FileLock]:
        """Return a lock to keep as long as the store is used, see `remove`; none where nothing can be written."""
        name = f"{USER}{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(SegkdError):
            return [lock] if (lock := self.claim(name)) is not None else []
        return []

    def user(self) -> str:
        """Return which process uses it, empty where none does."""
        for file in sorted((self.folder / LOCKS).glob(f"{USER}*.lock")):
            name = file.name.removesuffix(".lock")
            if self.claim(name) is None:
                host, process, _ = name.removeprefix(USER).rsplit(".", 2)
                return f"process {process} on {host}"
        return ""

    def remove(self) -> None:
        """Remove it.

        Raises:
            SegkdError: a process uses it, or it cannot be removed.
        """
        if user := self.user():
            raise SegkdError(f"{self.folder} is in use, by {user}: it cannot be removed")
        try:
            shutil.rmtree(self.folder)
        except OSError as error:
            raise SegkdError(f"{self.folder} cannot be removed: {error.strerror}") from None

    def write(self, view: View, found: Mapping[str, Any], seconds: float | None = None) -> None:
        """Store one view's values; entries that are there already stay.

        Args:
            view: its key.
            found: the values by place.
            seconds: how long it took to make them, see `seconds_for`.

        Raises:
            SegkdError: the folder cannot be written; `segkd.errors.DiskFull` where it is full.
        """
        lacking = {place: value for place, value in found.items() if not is_whole(self.path(place, view))}
        made = None if seconds is None else (seconds, len(lacking))
        for place, value in lacking.items():
            try:
                (self.folder / SCRATCH).mkdir(exist_ok=True)
                # Two processes may write the same entry: each uses a scratch file of its own.
                scratch = self.folder / SCRATCH / uuid.uuid4().hex
                write_entry(self.path(place, view), value, self.kept, self.compress, made, scratch)
            except OSError as error:
                raise self._failed(error) from error

    def read(self, view: View, places: Collection[str]) -> dict[str, Any] | None:
        """Return one view's stored values by place; None where one is missing or broken."""
        try:
            return {place: read_entry(self.path(place, view)) for place in places}
        except (FileNotFoundError, Unreadable):
            return None

    def seconds_for(self, views: Iterable[View], places: Collection[str]) -> tuple[float, dict[str, float]]:
        """Return how long it took to make these views' stored values, by any process at any time.

        Returns:
            The seconds that one run would take to make all of it at once; and the seconds spent on each place, so that
            those who read it can share them: the time of values that were made together is divided by their places.

        Raises:
            SegkdError: an entry is missing, or does not say how long it took.
        """
        alone, spent = 0.0, dict.fromkeys(places, 0.0)
        for view in views:
            made = {place: made_in(self.path(place, view)) for place in places}
            known = {place: each for place, each in made.items() if each is not None}
            if len(known) < len(made):
                raise SegkdError(
                    f"teacher.store: {self.folder} does not say how long it took to fill: have it filled anew, after "
                    f"segkd store --prune {self.folder.name}"
                )
            alone += max((seconds for seconds, _ in known.values()), default=0.0)
            for place, (seconds, together) in known.items():
                spent[place] += seconds / together
        return alone, spent

    def size(self) -> tuple[int, int]:
        """Return how many files there are, and their bytes."""
        sizes = [file.stat().st_size for file in self.folder.rglob("[0-9]*.safetensors")]
        return len(sizes), sum(sizes)

    def free(self) -> int:
        """Return how many bytes are free on its disk."""
        return shutil.disk_usage(self.folder).free

    def _failed(self, error: OSError) -> Exception:
        if isinstance(error, DiskFull):
            return error
        if is_disk_full(error):
            return disk_full(self.folder / ABOUT)
        reason = (error.strerror or type(error).__name__).lower()
        return SegkdError(
            f"teacher.store: {self.folder} cannot be written ({reason}): name another teacher.store.folder"
        )


@dataclass(frozen=True)
class Listed:
    """A store that was found below a root.

    Attributes:
        store: the store itself.
        about: what its ``about.json`` says.
        used: seconds since it was last used.
    """

    store: Store
    about: dict[str, Any]
    used: float


def stores(root: Path) -> list[Listed]:
    """Return the stores below a root, the one used last first, without folders that have no readable ``about.json``."""
    found = []
    for file in sorted(root.glob(f"*/{ABOUT}")):
        try:
            about = json.loads(file.read_text())
            used = time.time() - file.stat().st_mtime
        except (OSError, ValueError):
            continue  # a folder of something else
        found.append(Listed(Store(file.parent), about if isinstance(about, dict) else {}, used))
    return sorted(found, key=lambda each: each.used)
