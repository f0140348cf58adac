"""Queues and running statistics are the same in all processes, and the loss is that of one process with all images."""

from pathlib import Path

import torch
from losses.base import pair, some_labels
from processes import in_two_processes
from torch import Tensor

from segkd.losses import CIRKDChannel, CIRKDMemory, Foundation

OPTIONS = {"classes": 5, "pixel_slots": 200, "region_slots": 7, "max_pixels": 63}


def values(images: slice) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return of some of four images each loss's value, and all that it keeps."""
    student, teacher, target = pair((4, 5, 7, 9))[0].detach(), pair((4, 8, 7, 9))[1], some_labels((4, 7, 9))
    target[3] = 255  # the second process has fewer labels, the first all of a class
    target[2:][target[2:] == 4] = 255
    found, kept = [], {}
    for loss in (CIRKDMemory(**OPTIONS), CIRKDChannel(pool=2, slots=50, relation_weight=0), Foundation()):
        torch.manual_seed(0)
        loss.prepare(student, teacher)
        value = loss(student[images].requires_grad_(), teacher[images], target[images])
        norms = sum(grad.square().sum() for grad in torch.autograd.grad(value, list(loss.parameters())))
        found += [value.detach(), torch.as_tensor(norms)]
        kept |= {f"{loss.name}.{name}": x for name, x in loss.named_buffers()}
    return found, kept


def worker(rank: int, folder: Path) -> None:
    found, kept = values(slice(2 * rank, 2 * rank + 2))
    torch.save({"values": torch.stack(found), **kept}, folder / f"{rank}.pt")


def test_two_processes_keep_what_one_keeps(tmp_path: Path):
    in_two_processes(worker, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    found, kept = values(slice(None))
    for name, expected in kept.items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        if not name.startswith("cirkd_channel"):  # there each process adds channels of its own
            torch.testing.assert_close(first[name], expected, rtol=1e-5, atol=1e-6)
    together = (first["values"] + second["values"]) / 2
    torch.testing.assert_close(together[[0, 4]], torch.stack(found)[[0, 4]], rtol=1e-4, atol=1e-6)
