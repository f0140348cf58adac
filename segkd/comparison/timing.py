"""How long a step of a config takes on this machine, by which a budget of minutes is turned into steps.

Run as a program, ``python -m segkd.comparison.timing CONFIG``, so that threads and devices are its own; with ``views``
after the config it also prints the seconds of making one view for the teachers' stores.
"""

import itertools
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console

from segkd.balance import EVERY, FIRST
from segkd.comparison.charges import seconds_per_view
from segkd.errors import SegkdError
from segkd.training.average import StudentAverage
from segkd.training.config import load_config
from segkd.training.fit import make_trainer
from segkd.training.module import DistillModule
from segkd.training.schema import Config
from segkd.training.stages import of_length, stage_configs
from segkd.training.storing import Stores
from segkd.training.tasks import task_of
from segkd.training.teacher import TeachersOf, teacher_configs

WARM_UP, TIMED = 3, 24
"""Steps before the clock starts, and steps that are timed; the median of these counts."""


def seconds_per_step(config: Config) -> float:
    """Train a few steps and return the seconds of one; with stages the mean over all steps.

    Weights are random, since that takes the same time, and nothing is written. But a stored teacher is loaded and its
    store filled for these steps, so that reading is timed. Filling stores and fitting auxiliary heads is not counted:
    see `segkd.comparison.charges`.
    """
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    stages = stage_configs(config)
    return sum(stage.trainer.max_steps * _of_stage(stage) for stage in stages) / config.trainer.max_steps


def _of_stage(config: Config) -> float:
    task, configs = task_of(config), teacher_configs(config)
    teachers = TeachersOf(task, configs)
    distiller = task.distiller(task.student(weights=False), teachers.networks)
    # Where terms have shares, the first steps measure the gradients, and later ones seldom.
    forwards = config.trainer.max_steps * config.trainer.accumulate
    measured = 0 if distiller.balance is None else -(-FIRST // config.trainer.accumulate)
    begin = max(WARM_UP, measured)
    short = task_of(of_length(config, begin + TIMED))
    stores, clock = Stores(short, [distiller], Console(quiet=True)), _Clock()
    if stores.wanted:
        teachers.load(to_measure=True)
    module = DistillModule(short, distiller)
    if config.trainer.compile:
        module.distiller.compile()
    average = [] if config.trainer.ema is None else [StudentAverage(config.trainer.ema)]
    trainer = make_trainer(
        config, max_steps=begin + TIMED, logger=False, limit_val_batches=0, callbacks=[*average, stores, clock]
    )
    trainer.fit(module, short.train_loader(short.train_set(), rank=trainer.global_rank, world=trainer.world_size))
    taken = [after - before for before, after in itertools.pairwise(clock.ends)]  # by the second and later steps
    plain = statistics.median(taken[begin - 1 :])
    if measured <= WARM_UP:
        return plain
    share = min((FIRST + max(forwards - FIRST, 0) / EVERY) / forwards, 1)
    return plain + share * (statistics.median(taken[WARM_UP - 1 : measured - 1]) - plain)


class _Clock(pl.Callback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > len(self.ends):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())


def main(arguments: Sequence[str]) -> None:
    """Print what a config takes, see the top of this file."""
    config = load_config(arguments[0])
    print(seconds_per_step(config), *(seconds_per_view(config) for _ in arguments[1:]))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SegkdError as error:
        sys.exit(f"segkd: {error}")
