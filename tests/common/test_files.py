import os
from pathlib import Path

import pytest
import safetensors.torch
import torch
from experiments import files_of_at_most

from segkd.common.files import replacing, write_text
from segkd.errors import DiskFull


def test_takes_the_place_of_what_was_there(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as scratch:
        scratch.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        _write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _write_half(path: Path) -> None:
    with replacing(path) as scratch:
        scratch.write_text("ne")
        raise KeyboardInterrupt


def test_what_a_kill_left_is_overwritten(tmp_path: Path):
    with replacing(tmp_path / "a.txt") as scratch:
        pass
    scratch.write_text("half of a longer text")
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert not scratch.exists()


def test_is_as_readable_as_any_file(tmp_path: Path):
    with replacing(tmp_path / "a.safetensors") as scratch:
        safetensors.torch.save_file({"a": torch.zeros(1)}, scratch)  # which only its owner may read
    (tmp_path / "b").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("library", ["python", "safetensors"])
def test_a_full_disk(tmp_path: Path, library: str):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with files_of_at_most(1000), pytest.raises(DiskFull) as caught:
        _write_40_000_bytes(path, library)
    message = str(caught.value)
    assert message.startswith(f"{path} cannot be written: the disk is full or a limit is reached (40000 bytes needed, ")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def _write_40_000_bytes(path: Path, library: str) -> None:
    with replacing(path, size=40_000) as scratch:
        if library == "python":
            scratch.write_bytes(bytes(40_000))
        else:
            safetensors.torch.save_file({"a": torch.zeros(10_000)}, scratch)


def test_a_text_says_how_long_it_is(tmp_path: Path):
    with files_of_at_most(10), pytest.raises(DiskFull, match=r"\(24 bytes needed, \d+ free\)"):
        write_text(tmp_path / "a.txt", "ä" * 12)


def test_another_error_is_not_of_the_disk(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "nowhere" / "a.txt", "text")
