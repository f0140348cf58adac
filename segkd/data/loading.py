"""Orders and loaders: what is seen depends on the seed, never on worker count, ranks or resuming."""

import itertools
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import finalize

import cv2
import numpy as np
import torch
from torch import multiprocessing
from torch.utils.data import DataLoader

from segkd.data.dataset import SeededDataset
from segkd.errors import SegkdError
from segkd.step import View


def endless(size: int, seed: int, start: int = 0, rank: int = 0, world: int = 1, stream: int = 0) -> Iterator[View]:
    """Yield keys for ever: a permutation of ``size`` indices per epoch, by seed and epoch, dealt to the ranks in turn.

    They begin after ``start`` samples of all ranks together; each ``stream`` is an order of its own.
    """
    drawn, order = -1, np.empty(0, dtype=np.int64)
    for position in itertools.count(start + rank, world):
        epoch, place = divmod(position, size)
        if epoch != drawn:
            drawn, order = epoch, np.random.default_rng([seed, epoch, *([stream] if stream else [])]).permutation(size)
        yield epoch, int(order[place])


@dataclass(frozen=True)
class Batches:
    """Endless batches of keys for a `SeededDataset`; where images without a label are mixed in, they come last.

    Both kinds are drawn in `endless` orders of their own, so that each comes equally often.

    Raises:
        SegkdError: no items, or a rank outside the world.
    """

    labelled: int  # number of items that have a label
    unlabelled: int  # number of those that have none, whose indices go on behind the others
    batch_size: int
    share: int  # how many of these are without label
    seed: int
    start: int = 0  # samples of both kinds that all ranks together have consumed before
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        for size in (self.labelled, self.unlabelled) if self.share else (self.labelled,):
            _check_rank(size, self.rank, self.world)

    def __iter__(self) -> Iterator[list[View]]:
        done, count = self.start // self.batch_size, self.batch_size - self.share
        first = endless(self.labelled, self.seed, done * count, self.rank, self.world)
        further = endless(self.unlabelled, self.seed, done * self.share, self.rank, self.world, stream=1)
        while True:
            batch = [next(first) for _ in range(count)]
            mixed = [next(further) for _ in range(self.share)]
            yield [*batch, *((epoch, self.labelled + index) for epoch, index in mixed)]


class Loader(DataLoader[dict[str, Any]]):
    """A DataLoader that lets an error of a worker process surface as it was raised, without the worker's traceback."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except SegkdError as error:
            raise SegkdError(str(error).rsplit("SegkdError: ", 1)[-1].strip()) from None


def train_loader(
    dataset: SeededDataset,
    *,
    batch_size: int,
    workers: int = 0,
    seed: int = 0,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    share: int = 0,
) -> Loader:
    """Build the endless training loader of the process ``rank`` of ``world``, after ``start`` samples of all of them.

    Each rank takes ``batch_size`` images at a time, of which ``share`` are without a label; see `Batches`.
    """
    sizes = len(dataset), len(dataset.unlabelled) if share else 0
    return _loader(dataset, workers, batch_sampler=Batches(*sizes, batch_size, share, seed, start, rank, world))


def given_loader(dataset: SeededDataset, batches: Iterable[list[View]], workers: int = 0) -> Loader:
    """Build a loader of given batches of keys."""
    return _loader(dataset, workers, batch_sampler=batches)


def eval_loader(
    dataset: SeededDataset, *, batch_size: int = 1, workers: int = 0, rank: int = 0, world: int = 1
) -> Loader:
    """Build the validation loader of one rank, in order.

    Unlike a distributed sampler it repeats nothing to even out the ranks, which would count images twice.
    """
    _check_rank(len(dataset), rank, world)
    return _loader(dataset, workers, sampler=range(rank, len(dataset), world), batch_size=batch_size)


def _loader(dataset: SeededDataset, workers: int, **order: Any) -> Loader:
    over = multiprocessing.Semaphore(0) if workers else None
    loader = Loader(
        dataset,
        **order,
        collate_fn=dataset.collate,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=partial(_begin_worker, over),
    )
    if over is not None:
        # Of a loader in a cycle, as an error's frames make one, the garbage collector takes the queues first: PyTorch's
        # own word to end then reaches nobody, and for each worker it would wait 5 s.
        finalize(loader, over.release)
    return loader


def _begin_worker(over: Any, _worker: int) -> None:
    # Each worker is one of many: OpenCV's own thread pool on top would only make them fight for cores.
    cv2.setNumThreads(0)
    # Ctrl-C in a terminal and a job's end reach workers too: they must go on until the step is finished.
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    threading.Thread(target=_end_worker, args=(over,), daemon=True).start()


def _end_worker(over: Any) -> None:
    """End this worker when its loader is gone, and let the next one do so."""
    over.acquire()
    over.release()
    os._exit(0)


def _check_rank(size: int, rank: int, world: int) -> None:
    if size < 1:
        raise SegkdError("the data set has no items")
    if not 0 <= rank < world:
        raise SegkdError(f"rank {rank} is outside a world of {world}")
