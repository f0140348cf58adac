import gc
import multiprocessing
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from segkd.data.dataset import SeededDataset
from segkd.data.loading import Batches, endless, eval_loader, train_loader
from segkd.data.samples import spread
from segkd.errors import SegkdError


class Numbers(SeededDataset):
    """Nine items of a random number each."""

    def __init__(self, seed: int, broken: int | None = None) -> None:
        self.seed = seed
        self.broken = broken

    def __len__(self) -> int:
        return 9

    def item(self, index: int, seed: int) -> dict[str, Any]:
        if index == self.broken:
            raise SegkdError(f"no image number {index}")
        return {"index": index, "value": torch.rand(1, generator=torch.Generator().manual_seed(seed)).item()}

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        return {"items": items}


def test_what_is_random_derives_from_seed_epoch_and_index():
    data = Numbers(3)
    assert data[4] == data[0, 4] == Numbers(3)[0, 4]
    assert len({data[epoch, index]["value"] for epoch in range(4) for index in range(9)}) == 36
    assert data[0, 4] != Numbers(4)[0, 4]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_what_the_data_set_makes_of_them_whoever_loads(workers):
    data = Numbers(3)
    batches = islice(train_loader(data, batch_size=2, workers=workers, seed=1, start=4), 6)
    drawn = [item for batch in batches for item in batch["items"]]
    assert drawn == [data[key] for key in islice(endless(9, seed=1, start=4), 12)]
    loader = eval_loader(data, batch_size=2, workers=workers, world=2)
    assert len(loader) == 3
    assert [[item["index"] for item in batch["items"]] for batch in loader] == [[0, 2], [4, 6], [8]]


def test_python_ends_though_workers_are_left():
    """They ignore the signals that end a job, so that a step can be finished, and Python ends them by one of these."""
    code = "from test_loading import *; loader = train_loader(Numbers(0), batch_size=2, workers=2); next(iter(loader))"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, timeout=60)


def test_workers_end_with_a_loader_that_the_garbage_collector_finds():
    before = set(multiprocessing.active_children())
    loader = train_loader(Numbers(0), batch_size=2, workers=2)
    cycle = [loader, iter(loader)]
    next(cycle[1])
    workers = set(multiprocessing.active_children()) - before
    assert len(workers) == 2
    cycle.append(cycle)
    del loader, cycle
    gc.collect()
    for worker in workers:
        worker.join(timeout=2)
        assert worker.exitcode == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_surfaces_as_it_was_raised(workers):
    with pytest.raises(SegkdError) as error:
        list(eval_loader(Numbers(0, broken=7), batch_size=4, workers=workers))
    assert str(error.value) == "no image number 7"


def test_each_epoch_is_another_permutation():
    drawn = list(islice(endless(50, seed=1), 150))
    orders = [[index for epoch, index in drawn if epoch == number] for number in range(3)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert list(islice(endless(50, seed=2), 50)) != drawn[:50]
    assert not hasattr(Batches(50, 0, 4, 0, seed=1), "__len__")


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_see_what_one_process_would(world):
    single = list(islice(endless(7, seed=1, start=5), 12))
    ranks = [list(islice(endless(7, seed=1, start=5, rank=rank, world=world), 12 // world)) for rank in range(world)]
    assert [ranks[i % world][i // world] for i in range(12)] == single


@pytest.mark.parametrize("world", [1, 2, 4])
def test_validation_covers_every_image_once(world):
    loaders = [eval_loader(Numbers(0), batch_size=2, rank=rank, world=world) for rank in range(world)]
    seen = [[item["index"] for batch in loader for item in batch["items"]] for loader in loaders]
    assert sorted(index for part in seen for index in part) == list(range(9))
    assert [len(loader) for loader in loaders] == [(len(part) + 1) // 2 for part in seen]


def test_samplers_refuse_what_cannot_be():
    with pytest.raises(SegkdError, match="no items"):
        Batches(0, 0, 4, 0, seed=0)
    with pytest.raises(SegkdError, match="no items"):
        Batches(4, 0, 4, 1, seed=0)
    with pytest.raises(SegkdError, match="rank 2 is outside a world of 2"):
        eval_loader(Numbers(0), rank=2, world=2)


def test_a_limit_keeps_items_from_all_over():
    assert spread([*range(100)], 5) == [0, 25, 50, 74, 99]
    assert spread([*range(100)], 1) == [0]
    assert spread([1, 2, 3], 3) == spread([1, 2, 3], 9) == spread([1, 2, 3], None) == [1, 2, 3]
    assert all(len(set(spread([*range(50)], limit))) == limit for limit in range(1, 51))
