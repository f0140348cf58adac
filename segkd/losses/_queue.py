"""Queues of a teacher's vectors from earlier batches: the same in all processes, saved and restored exactly."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segkd.errors import SegkdError


class Queue(nn.Module):
    """A ring of slots for each class: what is written overwrites the oldest.

    Attributes:
        vectors: (classes, slots, D), a buffer.
        pointer: (classes,) int64, the slot that is written next, a buffer.
    """

    vectors: Tensor
    pointer: Tensor

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors)
        self.register_buffer("pointer", torch.zeros(len(vectors), dtype=torch.int64, device=vectors.device))

    def write(self, runs: Sequence[tuple[int, int]], given: Tensor, wraps: bool = False) -> None:
        """Write run after run.

        Args:
            runs: pairs of a class and how many vectors of ``given`` are next and its; at most the number of slots.
            given: (M, D), the runs one after the other.
            wraps: whether a run goes on in the first slot after the last one. Otherwise one that reaches the end is put
                in the last slots, and the next begins at the first.
        """
        slots, pointer, row = self.vectors.shape[1], self.pointer.tolist(), 0
        latest: dict[int, int] = {}
        for of_class, count in runs:
            start = pointer[of_class]
            if not wraps and start + count >= slots:
                start, pointer[of_class] = slots - count, 0
            else:
                pointer[of_class] = (start + count) % slots
            # What a later run overwrites is not written at all: the order of one assignment is not defined.
            latest |= {of_class * slots + (start + i) % slots: row + i for i in range(count)}
            row += count
        if latest:
            place, source = (torch.tensor(list(x), device=given.device) for x in (latest, latest.values()))
            self.vectors.flatten(0, 1)[place] = given[source].to(self.vectors.dtype)
            self.pointer.copy_(torch.tensor(pointer))

    def draw(self, each: int, generator: torch.Generator) -> Tensor:
        """Return (classes * k, D): of each class the same k slots at random, ``each`` or all that there are."""
        index = some(self.vectors.shape[1], each, generator).to(self.vectors.device)
        return self.vectors[:, index].flatten(0, 1)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        found = state_dict.get(f"{prefix}vectors")
        if found is not None and found.shape != self.vectors.shape:
            raise SegkdError(
                f"{prefix.rstrip('.')} has {_described(self.vectors)}, and what is restored {_described(found)}: "
                "restore it with the options that it was trained with"
            )
        super()._load_from_state_dict(state_dict, prefix, *rest)


def some(count: int, wanted: int, generator: torch.Generator) -> Tensor:
    """Return (min(count, wanted),) different numbers below ``count``, at random; all of them in order if they are."""
    if wanted >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=generator, device=generator.device)[:wanted].cpu()


def unit_vectors(*shape: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Return random vectors of length 1 along the last dimension, on a tensor's device, float32 (float64 for it)."""
    drawn = torch.randn(shape, generator=generator, device=generator.device)
    return torch.nn.functional.normalize(drawn, dim=-1).to(like.device, torch.promote_types(like.dtype, torch.float32))


def _described(vectors: Tensor) -> str:
    classes, slots, channels = vectors.shape
    return f"{classes} classes of {slots} vectors of {channels} values"
