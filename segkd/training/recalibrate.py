"""Statistics of batch norms, estimated anew in float32 after a training in mixed precision."""

import itertools
from typing import TYPE_CHECKING

import torch
from pytorch_lightning.utilities import move_data_to_device
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from segkd.data.dataset import SeededDataset
from segkd.network import Network
from segkd.training.measure import device_of

if TYPE_CHECKING:
    from segkd.training.task import Task


@torch.no_grad()
def recalibrate(task: "Task", network: Network, dataset: SeededDataset, batches: int) -> None:
    """Estimate the running means and variances of a model's batch norms anew, in float32; its weights stay.

    A channel that hardly varies is rounded in bfloat16 to values that its batch norm has learnt to expect, and divides
    by next to nothing: in float32, as a model is exported, other values come there. All else runs as in validation.

    Args:
        task: of the run.
        network: the trained student.
        dataset: what it was trained on, seen from the beginning, augmented.
        batches: how many are seen; each counts alike.
    """
    # As it is exported and opened again, whatever layout it was trained in.
    network.to(memory_format=torch.contiguous_format)
    network.to(device := device_of(task.config)).train()
    norms = [norm for norm in norms_of(network) if norm.training]  # a model may keep some in eval mode
    network.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
        norm.train()
    for batch in itertools.islice(task.train_loader(dataset), batches):
        network(task.inputs(move_data_to_device(batch, device))[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def norms_of(network: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms of a model that keep statistics."""
    return [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
