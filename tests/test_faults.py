"""The table of faults: each is one line that says what is wrong, exit status 2, and nothing written."""

import shlex
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from experiments import segkd
from faults import FAULTS
from faults.row import FOLDERS, Fault, make_folder, make_run


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What rows start from, by kind; made where the first row needs it."""
    return {kind: tmp_path_factory.mktemp("faults") / kind for kind in FOLDERS}


@pytest.fixture
def here(
    request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A row's own copy of the folder it starts from, which is the working directory."""
    fault = request.getfixturevalue("fault")
    kind = fault.folder
    if not folders[kind].is_dir():
        made = make_folder(kind, folders[kind])
        if kind.endswith("run"):
            monkeypatch.chdir(made)
            make_run(made)
    folder = shutil.copytree(folders[kind], tmp_path / "here")
    monkeypatch.chdir(folder)
    monkeypatch.delenv("SEGKD_DATA", raising=False)
    if fault.absent:
        monkeypatch.setitem(sys.modules, fault.absent, None)
    return folder


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Return size and time of change of every file below a folder."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {path: (-1, -1) if path.is_dir() else (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


# A row that hangs ends here, and is the one that is named.
@pytest.mark.timeout(120)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_is_one_line_and_leaves_everything_as_it_was(fault: Fault, here: Path):
    fault.set_up(here)
    before = state(here)
    start = time.process_time()
    outcome = segkd(*shlex.split(fault.command))
    spent = time.process_time() - start
    assert outcome.status == fault.status, outcome
    assert outcome.err.startswith("segkd: "), outcome.err
    assert outcome.err.count("\n") == 1, outcome.err
    assert len(outcome.err) < 700, outcome.err
    assert "Traceback" not in outcome.out + outcome.err
    for text in fault.texts:
        assert text in outcome.err, f"{text!r} is not in {outcome.err!r}"
    assert state(here) == before
    assert spent <= fault.seconds, f"took {spent:.1f} s"


def test_the_table_is_long_and_names_each_fault_once():
    assert len(FAULTS) >= 120
    assert [name for name, count in Counter(fault.name for fault in FAULTS).items() if count > 1] == []
