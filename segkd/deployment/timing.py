"""Latency of several models on one machine, so that what else it does falls on all alike."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median
from typing import TypeVar

import torch

Input = TypeVar("Input")


def interleaved(calls: Sequence[Callable[[Input], object]], inputs: Iterable[Input]) -> list[float]:
    """Return each model's median seconds per call.

    Rounds are interleaved: each input goes through all models before the next. A call that is not timed goes before
    each that is: it finds the caches as the model before left them.

    Args:
        calls: the models.
        inputs: one for each round; at least one.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    with torch.inference_mode():
        for value in inputs:
            for call, spent in zip(calls, seconds, strict=True):
                call(value)
                started = time.perf_counter()
                call(value)
                spent.append(time.perf_counter() - started)
    return [median(spent) for spent in seconds]


@contextlib.contextmanager
def torch_threads(count: int | None) -> Iterator[int]:
    """Within this PyTorch computes with so many threads; None leaves it as it is. Gives the number."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield count or before
    finally:
        torch.set_num_threads(before)
