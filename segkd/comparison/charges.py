"""What a run costs beside its steps: filling its teachers' stores, fitting auxiliary heads.

Run as a program, so that threads and devices are its own: ``python -m segkd.comparison.charges CONFIG SEEDS FILE``
writes what `charges_of` returns to a JSON file.
"""

import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from segkd.errors import SegkdError
from segkd.training.config import load_config
from segkd.training.schema import Config
from segkd.training.stages import ends_of, of_length
from segkd.training.storing import views_of
from segkd.training.tasks import task_of
from segkd.training.train import prepare

BATCHES = 8
"""How many batches are made anew to see how long a view takes; the median of their views counts."""


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
        ``fitting``: seconds of fitting auxiliary heads; ``views``: how many a run sees; ``stores``: for each its
        ``folder``, how many of the runs read it (``runs``), and in seconds, as the store says, what a run needs to fill
        it ``alone`` and what all of them have ``spent`` on each place, see `segkd.store.store.Store.seconds_for`.
    """
    filled, fitting = prepare(config, console)
    # With a view seed all seeds see the same views, unless each fits a head of its own to its teacher.
    is_one = config.data.view_seed is not None and not fitting
    others = [config.model_copy(update={"seed": seed}) for seed in range(1, seeds)] if filled and is_one else []
    stores = []
    for each in filled:
        alone, spent = each.store.seconds_for(each.views, each.places)
        seen = set(each.views).union(*(views_of(task, task.train_set()) for task in map(task_of, others)))
        more = len(seen) / len(each.views)
        spent = {place: more * seconds for place, seconds in spent.items()}
        runs = seeds if is_one else 1
        stores.append({"folder": str(each.store.folder.resolve()), "runs": runs, "alone": alone, "spent": spent})
    return {"fitting": fitting, "views": len(filled[0].views) if filled else 0, "stores": stores}


def seconds_per_view(config: Config) -> float:
    """Make some views anew, in a temporary store, and return the seconds of one view, summed over stored teachers.

    The times that a store itself records may be from when the machine was busy with other work.
    """
    short = of_length(config, max(BATCHES, len(ends_of(config))))
    with tempfile.TemporaryDirectory() as folder:
        filled, _ = prepare(short, Console(quiet=True), Path(folder))
        took = [[each.store.seconds_for([view], each.places)[0] for view in each.views] for each in filled]
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
    """Write what a config's runs are charged with, see the top of this file."""
    config, seeds, file = arguments
    Path(file).write_text(json.dumps(charges_of(load_config(config), int(seeds), Console())))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except SegkdError as error:
        sys.exit(f"segkd: {error}")
