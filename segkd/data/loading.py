"""Samplers and loaders: what is seen depends on the seed, never on worker count, ranks or resuming."""

import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any
from weakref import finalize

import cv2
import numpy as np
import torch
from torch import multiprocessing
from torch.utils.data import DataLoader, Sampler

from segkd.data.dataset import SeededDataset
from segkd.errors import SegkdError


class StepSampler(Sampler[tuple[int, int]]):
    """Endless ``(epoch, index)`` keys: a fresh permutation per epoch, dealt to the ranks in turn. It has no length.

    Args:
        size: number of items in the data set.
        seed: what the permutations derive from, together with the epoch.
        start: samples that all ranks together have consumed before, so that a resumed run goes on where it stopped.
        rank: which of the processes this is.
        world: number of processes.
        stream: which of several independent orders.

    Raises:
        SegkdError: a data set without items, a rank outside the world.
    """

    def __init__(self, size: int, seed: int, start: int = 0, rank: int = 0, world: int = 1, stream: int = 0):
        _check_rank(size, rank, world)
        self.size = size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world = world
        self.stream = [stream] if stream else []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield keys for :class:`SeededDataset` for ever."""
        position = self.start + self.rank
        drawn, order = -1, np.empty(0, dtype=np.int64)
        while True:
            epoch, place = divmod(position, self.size)
            if epoch != drawn:
                drawn, order = epoch, np.random.default_rng([self.seed, epoch, *self.stream]).permutation(self.size)
            yield epoch, int(order[place])
            position += self.world


class MixedBatches(Sampler[list[tuple[int, int]]]):
    """Endless batches of keys, the last ones of each those of images without a label. It has no length.

    Both kinds are drawn as by a `StepSampler` of its own, so that each comes equally often.

    Args:
        labelled: number of items that have a label.
        unlabelled: number of those that have none, whose indices go on behind the others.
        batch_size: keys per batch.
        share: how many of these are without label.
        seed: see `StepSampler`, as for what follows.
        start: samples of both kinds together.
        rank: likewise.
        world: likewise.
    """

    def __init__(
        self,
        labelled: int,
        unlabelled: int,
        batch_size: int,
        share: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        batches = start // batch_size
        self.first, self.counts = labelled, (batch_size - share, share)
        self.orders = [
            StepSampler(size, seed, batches * count, rank, world, stream)
            for stream, (size, count) in enumerate(zip((labelled, unlabelled), self.counts, strict=True))
        ]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield batches of keys for :class:`SeededDataset` for ever."""
        labelled, unlabelled = map(iter, self.orders)
        while True:
            batch = [next(labelled) for _ in range(self.counts[0])]
            further = [next(unlabelled) for _ in range(self.counts[1])]
            yield [*batch, *((epoch, self.first + index) for epoch, index in further)]


class RankSlice(Sampler[int]):
    """Every index exactly once over the ranks, for validation; ranks may differ by one in length.

    Unlike a distributed sampler it repeats nothing to even out the ranks, which would count images twice.

    Args:
        size: number of items in the data set.
        rank: which of the processes this is.
        world: number of processes.

    Raises:
        SegkdError: a data set without items, a rank outside the world.
    """

    def __init__(self, size: int, rank: int = 0, world: int = 1):
        _check_rank(size, rank, world)
        self.indices = range(rank, size, world)

    def __iter__(self) -> Iterator[int]:
        """Yield this rank's indices in order."""
        return iter(self.indices)

    def __len__(self) -> int:
        """How many indices this rank has."""
        return len(self.indices)


class Loader(DataLoader[dict[str, Any]]):
    """A DataLoader that lets an error of a worker process surface as it was raised, without the worker's traceback."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches."""
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
    """Build the endless training loader of one rank; see :class:`StepSampler` for ``seed``, ``start`` and the ranks.

    Args:
        dataset: what is loaded.
        batch_size: images per batch and rank.
        workers: worker processes; 0 loads in this process.
        seed: the run's seed.
        start: samples consumed before by all ranks together (steps x batch_size x world).
        rank: which of the processes this is.
        world: number of processes.
        share: of each batch so many images are without a label.
    """
    if share:
        mixed = MixedBatches(len(dataset), len(dataset.unlabelled), batch_size, share, seed, start, rank, world)
        return _loader(dataset, workers, batch_sampler=mixed)
    sampler = StepSampler(len(dataset), seed, start, rank, world)
    return _loader(dataset, workers, sampler=sampler, batch_size=batch_size)


def eval_loader(
    dataset: SeededDataset, *, batch_size: int = 1, workers: int = 0, rank: int = 0, world: int = 1
) -> Loader:
    """Build the validation loader of one rank, in order, every image once over the ranks.

    Args:
        dataset: what is loaded.
        batch_size: images per batch and rank.
        workers: worker processes; 0 loads in this process.
        rank: which of the processes this is.
        world: number of processes.
    """
    return _loader(dataset, workers, sampler=RankSlice(len(dataset), rank, world), batch_size=batch_size)


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
