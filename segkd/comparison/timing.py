"""How long a step of a config takes on this machine: what a budget of minutes is turned into steps with.

Run as a program, ``python -m segkd.comparison.timing CONFIG``, so that threads and devices are its own.
"""

import itertools
import statistics
import sys
import time
from typing import Any

import pytorch_lightning as pl
import torch

from segkd.errors import SegkdError
from segkd.training.config import load_config
from segkd.training.fit import make_trainer
from segkd.training.module import DistillModule
from segkd.training.schema import Config
from segkd.training.tasks import task_of
from segkd.training.teacher import TeachersOf, teacher_configs

WARM_UP, TIMED = 3, 12
"""Steps before the clock starts, and steps that it takes; the median of these counts."""


def seconds_per_step(config: Config) -> float:
    """Train a few steps with random weights, which cost what trained ones do, and return the seconds of one.

    Nothing is written. An auxiliary head that a run would first fit to its teacher is not counted.
    """
    if config.trainer.threads is not None:
        torch.set_num_threads(config.trainer.threads)
    task = task_of(config)
    teachers = TeachersOf(task, teacher_configs(config))
    module = DistillModule(task, task.distiller(task.student(weights=False), teachers.networks))
    if config.trainer.compile:
        module.distiller.compile()
    clock = _Clock()
    trainer = make_trainer(config, max_steps=WARM_UP + TIMED, logger=False, limit_val_batches=0, callbacks=[clock])
    trainer.fit(module, task.train_loader(task.train_set(), rank=trainer.global_rank, world=trainer.world_size))
    ends = clock.ends[WARM_UP - 1 :]
    return statistics.median(after - before for before, after in itertools.pairwise(ends))


class _Clock(pl.Callback):
    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > len(self.ends):
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())


if __name__ == "__main__":
    try:
        print(seconds_per_step(load_config(sys.argv[1])))
    except SegkdError as error:
        sys.exit(f"segkd: {error}")
