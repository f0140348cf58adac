"""A store: entries by view and place, whole or not at all, read also where nothing can be written."""

import json
import os
from pathlib import Path

import pytest
import torch

from segkd.errors import SegkdError
from segkd.store.store import ABOUT, Store, stores

PLACE = "encoder.layer4"


def value(seed: int) -> torch.Tensor:
    return torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed))


def filled(folder: Path, *views: tuple[int, int]) -> Store:
    store = Store(folder)
    store.open({"teacher": "big"})
    for view in views:
        store.write(view, {"logits": value(view[1]), PLACE: [value(view[0])]})
    return store


def test_each_view_has_its_own_entry_at_each_place(tmp_path: Path) -> None:
    store = filled(tmp_path, (0, 1), (0, 2), (3, 1))
    found = store.read((3, 1), ["logits", PLACE])
    assert torch.equal(found["logits"], value(1))
    assert torch.equal(found[PLACE][0], value(3))
    assert store.read((3, 2), ["logits"]) is None
    assert store.read((3, 1), ["logits", "aux"]) is None


def test_what_is_missing_is_told_in_order_and_once(tmp_path: Path) -> None:
    store = filled(tmp_path, (0, 1))
    store.write((0, 5), {"logits": value(5)})
    views = [(0, 9), (0, 1), (0, 5), (0, 9), (1, 1)]
    assert store.missing(views, ["logits"]) == [(0, 9), (1, 1)]
    assert store.missing(views, ["logits", PLACE]) == [(0, 9), (0, 5), (1, 1)]


def test_a_broken_entry_is_missing_and_written_again(tmp_path: Path) -> None:
    store = filled(tmp_path, (0, 1))
    path = store.path("logits", (0, 1))
    path.write_bytes(path.read_bytes()[:50])
    assert store.missing([(0, 1)], ["logits"]) == [(0, 1)]
    assert store.read((0, 1), ["logits"]) is None
    store.write((0, 1), {"logits": value(1)})
    assert store.read((0, 1), ["logits"]) is not None


def test_it_says_how_long_what_a_run_reads_took_alone_and_by_place(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write((0, 0), {"logits": value(0)}, 3.0)
    store.write((0, 0), {"logits": value(1), PLACE: value(1)}, 4.0)  # the logits stay, and what they took
    store.write((0, 1), {"logits": value(0), PLACE: value(1)}, 5.0)
    views = [(0, 0), (0, 1)]
    assert store.seconds_for(views, ["logits"]) == (8.0, {"logits": 3 + 5 / 2})
    assert store.seconds_for(views, ["logits", PLACE]) == (9.0, {"logits": 3 + 5 / 2, PLACE: 4 + 5 / 2})
    filled(tmp_path, (7, 7))
    for view in ((7, 7), (8, 8)):
        with pytest.raises(SegkdError, match=f"does not say how long .* segkd store --prune {tmp_path.name}"):
            store.seconds_for([view], ["logits"])


def test_it_is_listed_with_what_it_is_of_the_last_used_first(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "old")):
        filled(tmp_path / name, (0, age))
        os.utime(tmp_path / name / ABOUT, (1e9 - age, 1e9 - age))
    (tmp_path / "something else").mkdir()
    assert [each.store.folder.name for each in stores(tmp_path)] == ["new", "old"]
    assert stores(tmp_path)[0].about == {"teacher": "big"}
    assert stores(tmp_path / "nowhere") == []


def test_opening_again_notes_the_use_and_changes_nothing(tmp_path: Path) -> None:
    store = filled(tmp_path / "s")
    os.utime(store.folder / ABOUT, (1e9, 1e9))
    store.open({"teacher": "another"})
    assert json.loads((store.folder / ABOUT).read_text()) == {"teacher": "big"}
    assert stores(tmp_path)[0].used < 60


def test_its_size_counts_entries_alone(tmp_path: Path) -> None:
    store = filled(tmp_path, (0, 1), (0, 2))
    count, size = store.size()
    assert count == 4
    assert size == sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))


@pytest.mark.skipif(os.name != "posix", reason="a folder under a file is refused alike on POSIX alone")
def test_a_place_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SegkdError, match=r"teacher\.store.*cannot be written.*not a directory"):
        Store(tmp_path / "file" / "key").open({})


def test_one_in_use_is_not_removed_and_one_whose_user_is_gone_is(tmp_path: Path) -> None:
    store = Store(tmp_path / "a")
    store.open({})
    held = store.hold()
    assert held
    with pytest.raises(SegkdError, match=rf"is in use, by process {os.getpid()} on .*: it cannot be removed"):
        store.remove()
    assert (store.folder / ABOUT).is_file()
    for lock in held:
        lock.release()
    store.remove()
    assert not store.folder.exists()


def test_what_cannot_be_locked_or_written_is_one_line(tmp_path: Path) -> None:
    store = Store(tmp_path / "a")
    store.open({})
    (store.folder / ".locks").write_text("no folder")
    with pytest.raises(
        SegkdError, match=r"teacher\.store: .* cannot be written \(.*\): name another teacher.store.folder"
    ):
        store.claim("0.0")
    assert store.hold() == []


def test_scratch_files_of_killed_processes_are_removed_after_an_hour(tmp_path: Path) -> None:
    store = Store(tmp_path / "a")
    store.open({})
    store.write((0, 0), {"logits": torch.ones(1)})
    old, new = (store.folder / ".tmp" / name for name in ("old", "new"))
    for file in (old, new):
        file.touch()
    os.utime(old, (0, 0))
    store.open({})
    assert not old.exists()
    assert new.exists()
