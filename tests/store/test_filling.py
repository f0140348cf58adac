"""Filling a store: by one process, by several at once, after one that was killed, on a disk without room."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from segkd.errors import DiskFull
from segkd.step import View
from segkd.store import Compression, filling
from segkd.store.filling import Filling
from segkd.store.store import Store

VIEWS = [(epoch, index) for epoch in range(2) for index in range(9)]
PLACES = ["logits", "fpn"]


def value(view: View) -> torch.Tensor:
    return torch.full((2, 3, 4), 100.0 * view[0] + view[1])


def fill(folder: Path, batch_size: int = 4, seconds: float = 0.0, compress: Compression = "none") -> list[list[View]]:
    """Fill the store and return the batches that were run here."""
    done: list[list[View]] = []

    def load(work: Filling) -> Iterator[list[View]]:
        yield from work.batches()

    def run(batch: list[View]) -> tuple[list[View], dict[str, Any]]:
        done.append(batch)
        time.sleep(seconds)
        stacked = torch.stack([value(view) for view in batch])
        return batch, {"logits": stacked, "fpn": {8: stacked, 16: stacked + 1}}

    for _ in Filling(Store(folder, compress=compress), VIEWS, PLACES, batch_size)(load, run):
        pass
    return done


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filling, "BLOCK", 5)


def check(folder: Path) -> None:
    store = Store(folder)
    assert store.missing(VIEWS, PLACES) == []
    for view in VIEWS:
        found = store.read(view, PLACES)
        assert found is not None
        assert torch.equal(found["logits"], value(view))
        assert torch.equal(found["fpn"][16], value(view) + 1)


def test_every_view_is_made_once_in_batches_of_one_size(tmp_path: Path) -> None:
    done = fill(tmp_path)
    check(tmp_path)
    assert {len(batch) for batch in done} == {4}
    assert sorted({view for batch in done for view in batch}) == VIEWS
    assert fill(tmp_path) == []


def test_entries_say_how_long_they_took(tmp_path: Path) -> None:
    begin = time.perf_counter()
    done = fill(tmp_path, seconds=0.05)
    taken = time.perf_counter() - begin
    alone, by_place = Store(tmp_path).seconds_for(VIEWS, PLACES)
    assert 0.05 * len(done) < alone < 1.2 * taken
    assert sum(by_place.values()) == pytest.approx(alone)


def test_only_what_is_missing_is_made(tmp_path: Path) -> None:
    fill(tmp_path)
    Store(tmp_path).path("fpn", VIEWS[3]).unlink()
    broken = Store(tmp_path).path("logits", VIEWS[11])
    broken.write_bytes(broken.read_bytes()[:30])
    assert {view for batch in fill(tmp_path) for view in batch} == {VIEWS[3], VIEWS[11]}
    check(tmp_path)


def test_several_at_once_share_the_work(tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: fill(tmp_path, seconds=0.02), range(3)))
    check(tmp_path)
    made = [view for each in done for batch in each for view in dict.fromkeys(batch)]
    assert sorted(made) == VIEWS  # none twice
    assert sum(bool(each) for each in done) > 1


def test_what_a_killed_process_had_begun_is_made_by_the_next(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:0] = {[str(Path(__file__).parent), *sys.path]!r}
from pathlib import Path
import test_filling
print('begun', flush=True)
test_filling.fill(Path({str(tmp_path)!r}), seconds=0.3)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 60
    while not Store(tmp_path).size()[0] and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert Store(tmp_path).missing(VIEWS, PLACES)
    fill(tmp_path)
    check(tmp_path)


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "free", lambda self: 1000)
    with pytest.raises(DiskFull, match=r"no room for 18 views: about 5\.2 kB are needed, 1\.0 kB free"):
        fill(tmp_path)
    assert Store(tmp_path).size() == (0, 0)


def test_without_room_for_what_is_compressed_the_first_batch_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Store, "free", lambda self: 1000)
    with pytest.raises(DiskFull, match=r"no room for 18 views: about [\d.]+ kB are needed, 1\.0 kB free"):
        fill(tmp_path, compress="zstd")
    assert Store(tmp_path).size()[0] == 8
