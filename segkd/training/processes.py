"""The first of the processes of one training, and how those of several machines find each other."""

import os

from pytorch_lightning import Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment

from segkd.errors import SegkdError

FOUND_BY = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
"""Environment variables that the user sets on each machine; torchrun and SLURM set what they need themselves."""


def is_first(machines: int) -> bool:
    """Whether this is the process that makes the run's directory and prints; raises where NODE_RANK is no number.

    Read from the environment: Lightning's own rank is first that within the machine, then that of the last Trainer.

    Args:
        machines: how many the training has. With 1, of machines on which the command is started separately each has a
            first process: a teacher that trains on one machine is trained by whichever takes its run's lock first.
    """
    ranks = (os.environ.get(variable) for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    rank = next((rank for rank in ranks if rank is not None), "0")
    return rank == "0" and (machines == 1 or _machine() == 0)


def _machine() -> int:
    variable = next((name for name in ("NODE_RANK", "GROUP_RANK") if name in os.environ), None)
    number = os.environ[variable] if variable else "0"
    if not number.isdecimal():
        raise SegkdError(f"{variable} must be this machine's number, from 0 on, got {number!r}")
    return int(number)


def check_machines(name: str, trainer: Trainer) -> None:
    """Raise where several machines are wanted but cannot find each other: each would wait for the others for ever."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes == 1 or not isinstance(environment, LightningEnvironment):
        return
    if lacking := [variable for variable in FOUND_BY if not os.environ.get(variable)]:
        raise SegkdError(
            f"{name}: trainer.num_nodes: {trainer.num_nodes} machines find each other by {', '.join(FOUND_BY)} in the "
            f"environment of the same command on each, or by torchrun: {', '.join(lacking)} not set"
        )
    if _machine() >= trainer.num_nodes:
        raise SegkdError(f"{name}: NODE_RANK must be below trainer.num_nodes, {trainer.num_nodes}, got {_machine()}")
