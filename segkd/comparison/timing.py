"""What a config's runs take on this machine: a step, and what they do before the first one.

Run as a program, so that threads and devices are its own: ``python -m segkd.comparison.timing CONFIG`` prints the
seconds of a step, by which a budget of minutes is turned into steps; with ``views`` after the config also those of
making one view for the teachers' stores. ``CONFIG charges SEEDS FILE`` writes what `charges_of` returns to a JSON file.
"""

import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from rich.console import Console

from segkd.balance import EVERY, FIRST
from segkd.errors import SegkdError
from segkd.training.average import StudentAverage
from segkd.training.config import load_config
from segkd.training.fit import make_trainer
from segkd.training.module import DistillModule
from segkd.training.schema import Config
from segkd.training.stages import ends_of, of_length, stage_configs
from segkd.training.storing import Stores, views_of
from segkd.training.tasks import task_of
from segkd.training.teacher import TeachersOf, teacher_configs
from segkd.training.train import prepare

WARM_UP, TIMED = 3, 24
"""Steps before the clock starts, and steps that are timed; the median of these counts."""
BATCHES = 8
"""How many batches are made anew to see how long a view takes; the median of their views counts."""


def seconds_per_step(config: Config) -> float:
    """Train a few steps and return the seconds of one; with stages the mean over all steps.

    Weights are random, since that takes the same time, and nothing is written. But a stored teacher is loaded and its
    store filled for these steps, so that reading is timed. Filling stores and fitting auxiliary heads is not counted:
    see `charges_of`.
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


def has_charges(config: Config) -> bool:
    """Whether a run of this config does anything that takes long before its first step."""
    blocks = config.named_teachers().values()
    return any(getattr(block, "store", None) or getattr(block, "auxiliary", None) == "fit" for block in blocks)


def charges_of(config: Config, seeds: int, console: Console) -> dict[str, Any]:
    """Do what a run does before its first step, as far as that is not done yet, and return what it takes.

    Args:
        config: of the run with seed 0.
        seeds: how many runs of this config are compared.
        console: where progress is shown.

    Returns:
        ``fitting``: seconds of fitting auxiliary heads; ``views``: how many a run reads of a store at most; ``stores``:
        for each its ``folder``, how many of the runs read it (``runs``), and in seconds, as the store says, what a run
        needs to fill it ``alone`` and what all of them have ``spent`` on each place, see
        `segkd.store.store.Store.seconds_for`.
    """
    filled, fitting = prepare(config, console)
    # With a view seed all seeds see the same views, of whole images always, unless each fits a head to its own teacher.
    are_shared = [not fitting and (config.data.view_seed is not None or each.teacher.whole) for each in filled]
    others = [config.model_copy(update={"seed": seed}) for seed in range(1, seeds)] if any(are_shared) else []
    views_of_all = [views_of(task, task.train_set()) for task in map(task_of, others)]
    stores, counts = [], [0]
    for each, is_one in zip(filled, are_shared, strict=True):
        views_of_others = views_of_all if is_one else []
        reads = each.reads()
        made = [each.store.seconds_for([view], places) for view, places in reads.items()]
        spent = {}
        for place in dict.fromkeys(place for places in reads.values() for place in places):
            own = {view for view, places in reads.items() if place in places}
            stages = [stage for stage, places in each.places.items() if place in places]
            seen = own.union(*(map(each.teacher.key, views[stage]) for views in views_of_others for stage in stages))
            # What other seeds see beside these is taken to be as long in the making.
            spent[place] = len(seen) / len(own) * sum(of_view.get(place, 0.0) for _, of_view in made)
        alone, runs = sum(seconds for seconds, _ in made), seeds if is_one else 1
        stores.append({"folder": str(each.store.folder.resolve()), "runs": runs, "alone": alone, "spent": spent})
        counts.append(len(reads))
    return {"fitting": fitting, "views": max(counts), "stores": stores}


def seconds_per_view(config: Config) -> float:
    """Make some views anew, in a temporary store, and return the seconds of one view, summed over stored teachers.

    The times that a store itself records may be from when the machine was busy with other work.
    """
    short = of_length(config, max(BATCHES, len(ends_of(config))))
    with tempfile.TemporaryDirectory() as folder:
        filled, _ = prepare(short, Console(quiet=True), Path(folder))
        took = [[each.store.seconds_for([view], places)[0] for view, places in each.reads().items()] for each in filled]
    return sum(map(statistics.median, took))


def shared(charges: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return each method's share of the seconds of filling stores: those of a place are divided by its readers.

    Args:
        charges: what `charges_of` returned, by method.
    """
    readers: Counter[tuple[str, str]] = Counter()
    stores = [(name, store) for name, charge in charges.items() for store in charge["stores"]]
    for _, store in stores:
        readers.update({(store["folder"], place): store["runs"] for place in store["spent"]})
    found = dict.fromkeys(charges, 0.0)
    for name, store in stores:
        found[name] += sum(seconds / readers[store["folder"], place] for place, seconds in store["spent"].items())
    return found


def main(arguments: Sequence[str]) -> None:
    """Print or write what a config takes, see the top of this file."""
    path, *asked = arguments
    config = load_config(path)
    if asked[:1] == ["charges"]:
        seeds, file = asked[1:]
        Path(file).write_text(json.dumps(charges_of(config, int(seeds), Console())))
    else:
        print(seconds_per_step(config), *(seconds_per_view(config) for _ in asked))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SegkdError as error:
        sys.exit(f"segkd: {error}")
