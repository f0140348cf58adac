"""Filling a store: batches of views that no other process is making, each run through the teacher and written."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from filelock import FileLock
from rich.filesize import decimal
from torch import Tensor

from segkd.errors import DiskFull
from segkd.outputs import tensors_of
from segkd.step import View
from segkd.store.store import Store

BLOCK = 256
"""How many views one process claims at a time."""
_WAIT = 0.5
"""Seconds between two checks of what other processes are making."""

Found = Mapping[str, Any]


class Filling:
    """Makes what a store lacks of some views, together with all other processes that fill it at the same time.

    If it is killed, filling can go on where it stopped: entries are written whole, and a lock ends with its process.

    Args:
        store: what is filled.
        views: that are wanted.
        places: that are read of each.
        batch_size: views that are made at once. Each batch has exactly so many; the last one repeats some, since models
            round differently for another batch size, and stored outputs should be those that training would see.
    """

    def __init__(self, store: Store, views: Iterable[View], places: Collection[str], batch_size: int) -> None:
        self.store, self.places, self.batch_size = store, list(places), batch_size
        self.views = list(dict.fromkeys(views))
        self.missing = store.missing(self.views, self.places)
        self._held: dict[View, FileLock] = {}  # by the last view of each block

    def batches(self) -> Iterator[list[View]]:
        """Yield the batches that this process is to make, as a loader asks for them; others' blocks are skipped."""
        # Blocks are of all views, not of the missing ones: they are the same for a process that comes later.
        missing = set(self.missing)
        for start in range(0, len(self.views), BLOCK):
            block = self.views[start : start + BLOCK]
            if missing.isdisjoint(block):
                continue
            if (lock := self.store.claim(f"{block[0][0]}.{block[0][1]}")) is None:
                continue
            lacking = self.store.missing(block, self.places)
            if not lacking:
                lock.release()
                continue
            self._held[lacking[-1]] = lock
            for first in range(0, len(lacking), self.batch_size):
                batch = lacking[first : first + self.batch_size]
                yield [batch[place % len(batch)] for place in range(self.batch_size)]

    def __call__(
        self, load: Callable[["Filling"], Iterable[Any]], run: Callable[[Any], tuple[Sequence[View], Found]]
    ) -> Iterator[int]:
        """Make what is missing and yield, after each batch, how many views it has added.

        Args:
            load: called with this object, returns a loader of the batches that `batches` yields.
            run: returns a loaded batch's views, and what the teacher gives for them at each place.

        Raises:
            DiskFull: the disk has no room for what is still to be made; told before anything is written, or after the
                first batch where only that shows how far it can be compressed.
            SegkdError: the folder cannot be written.
        """
        is_checked, writing = False, 0.0
        while self.missing:
            began = time.perf_counter()
            try:
                for batch in load(self):
                    views, found = run(batch)
                    if not is_checked and self.store.compress == "none":
                        self._check_room(self.size(found))
                        is_checked = True
                    added = len(set(views))
                    making = (time.perf_counter() - began) / added
                    for place, view in enumerate(views[:added]):
                        begun = time.perf_counter()
                        of_view = {name: of_image(value, place) for name, value in found.items()}
                        # The time to write this one is not known yet: that of the last one is taken.
                        self.store.write(view, of_view, making + writing)
                        writing = time.perf_counter() - begun
                        if (lock := self._held.pop(view, None)) is not None:
                            lock.release()
                    if not is_checked:
                        self._check_room(self._written(views) // added * (len(self.missing) - added))
                        is_checked = True
                    yield added
                    began = time.perf_counter()
            finally:
                for lock in self._held.values():
                    lock.release()
                self._held.clear()
            self.missing = self.store.missing(self.missing, self.places)
            if self.missing:
                time.sleep(_WAIT)

    def size(self, found: Found) -> int:
        """Return about how many bytes are still to be written, given what a batch has at each place."""
        each = sum(x.numel() * _width(x, self.store.kept) for x in tensors_of(found)) // self.batch_size
        return each * len(self.missing)

    def _written(self, views: Collection[View]) -> int:
        return sum(self.store.path(place, view).stat().st_size for place in self.places for view in set(views))

    def _check_room(self, needed: int) -> None:
        if needed > (free := self.store.free()):
            raise DiskFull(
                f"teacher.store: {self.store.folder} has no room for {len(self.missing)} views: about "
                f"{decimal(needed)} are needed, {decimal(free)} free"
            )


def of_image(value: Any, place: int) -> Any:
    """Return one image's part of what was read for a batch: a tensor, or a list or mapping of them.

    A tuple holds one value for each image.
    """
    if isinstance(value, Mapping):
        return {key: of_image(each, place) for key, each in value.items()}
    return [of_image(each, place) for each in value] if isinstance(value, list) else value[place]


def _width(x: Tensor, kept: str) -> int:
    """Return how many bytes a value takes in a file."""
    if not x.is_floating_point():
        return x.element_size()
    return {"int8": 1, "float16": 2, "bfloat16": 2}.get(kept, x.element_size())
