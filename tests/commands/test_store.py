"""The list of stores, and what is removed."""

import os
import time
from pathlib import Path

import pytest
import torch
from experiments import refused, segkd

from segkd.store.store import ABOUT, Store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for days, name in enumerate(("abc", "def")):
        store = Store(tmp_path / name)
        store.open({"teacher": f"runs/{name}", "dataset": "camvid, train"})
        store.write((0, 3), {"logits": torch.zeros(3, 50, 100)})
        moment = time.time() - 86400 * 3 * days - 60
        os.utime(store.folder / ABOUT, (moment, moment))
    (tmp_path / "else").mkdir()
    return tmp_path


def test_they_are_listed_with_teacher_size_and_age(root: Path) -> None:
    lines = segkd("store", "--list", "--folder", root).out.splitlines()
    assert [line.split()[0] for line in lines] == ["store", "abc", "def"]
    assert "runs/def" in lines[2]
    assert "60" in lines[2]
    assert lines[2].endswith("3 d ago")
    assert "there are no stores in" in segkd("store", "--list", "--folder", root / "else").out


def test_named_and_unused_ones_are_removed_and_nothing_else(root: Path) -> None:
    assert "removed" in segkd("store", "--prune", "--unused", 2, "--folder", root).out
    assert sorted(path.name for path in root.iterdir()) == ["abc", "else"]
    assert "is unused for 2 days" in segkd("store", "--prune", "--unused", 2, "--folder", root).out
    assert "removed" in segkd("store", "--prune", "abc", "--folder", root).out
    assert [path.name for path in root.iterdir()] == ["else"]


def test_names_are_listed_whole_however_long_a_teachers_is(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    Store(root / "0123456789abcdef0123").open({"teacher": "a/long/way/" * 9, "dataset": "camvid, train"})
    lines = segkd("store", "--list", "--folder", root).out.splitlines()
    assert lines[1].startswith("0123456789abcdef0123 ")
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)


def test_one_that_is_named_twice_is_removed_once(root: Path) -> None:
    outcome = segkd("store", "--prune", "abc", "abc", "--unused", 0, "--folder", root)
    assert (outcome.status, outcome.out.count("removed")) == (0, 2)


def test_an_unused_one_that_a_long_run_reads_is_in_nobodys_way(root: Path) -> None:
    lock, *_ = Store(root / "abc").hold()
    with lock:
        out = segkd("store", "--prune", "--unused", 0, "--folder", root).out
        assert f"kept {root / 'abc'}: in use, by process {os.getpid()} on " in out
        assert sorted(path.name for path in root.iterdir()) == ["abc", "else"]
        refused(segkd("store", "--prune", "abc", "--unused", 0, "--folder", root), "abc is in use, by process")


def test_refuses(root: Path) -> None:
    refused(segkd("store", "--prune", "abd", "--folder", root), "no store 'abd'", "did you mean 'abc'?")
    refused(segkd("store", "--prune", "else", "--folder", root), "no store 'else'")
    refused(segkd("store", "--prune", "--folder", root), "takes names of stores")
    refused(segkd("store"), "takes a CONFIG, --list or --prune")
    refused(segkd("store", "seed=1"), "takes a CONFIG, --list or --prune")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--list", "kd.yaml", "nonsense=1"], "--list takes --folder alone, not 'kd.yaml' and 'nonsense=1'"),
        (["--list", "--unused", 3], "--list takes --folder alone, not --unused"),
        (["--list", "--prune", "abc"], "--list takes --folder alone, not 'abc' and --prune"),
        (["--list", "--on", "ray"], "--list takes --folder alone, not --on"),
        (["--prune", "abc", "--on", "ray"], "--prune takes names of stores, --unused and --folder, not --on"),
        (["camvid_kd", "--unused", 3], "CONFIG takes changes to it, --folder and --on, not --unused"),
    ],
)
def test_refuses_what_would_count_for_nothing(root: Path, arguments: list[object], text: str) -> None:
    refused(segkd("store", "--folder", root, *arguments), text)
    assert len(list(root.iterdir())) == 3
