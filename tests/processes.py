"""Two processes that compute one thing together, as under DistributedDataParallel."""

import multiprocessing
import socket
from collections.abc import Callable
from typing import Any

import torch
import torch.multiprocessing

# Imported once, in the process that all others are forked from: each would take seconds to import it.
multiprocessing.set_forkserver_preload(["torch._dynamo", "torchmetrics.detection", "segmentation_models_pytorch"])


def in_two_processes(work: Callable[..., None], *arguments: Any, start: str = "forkserver") -> None:
    """Run ``work(rank, *arguments)`` in both processes of a group, to the end.

    Args:
        work: a function of a module.
        arguments: what can be pickled.
        start: ``fork`` starts them sooner, from this very process; they cannot compute gradients then.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(_joined, (port, work, arguments), nprocs=2, start_method=start)


def _joined(rank: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    try:
        work(rank, *arguments)
    finally:
        torch.distributed.destroy_process_group()
