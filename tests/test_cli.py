"""The command line: what it prints, and one line with exit status 2 for whatever the user got wrong."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experiments import DISTILLED, cut_at, make_experiment, refused, segkd, train, write
from PIL import Image
from typer.main import get_command

from segkd.cli import app

COMMANDS: Any = vars(get_command(app))["commands"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configs and data in which every command fails before it writes anything."""
    return make_experiment(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The same for tests that change its files."""
    return make_experiment(tmp_path)


def files(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


class TestHelp:
    @pytest.mark.parametrize("width", [80, 120])
    @pytest.mark.parametrize(
        "command",
        ["", *sorted(COMMANDS), *(f"data {name}" for name in sorted(COMMANDS["data"].commands))],
        ids=str,
    )
    def test_fits_the_terminal_and_is_whole(self, command: str, width: int, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("COLUMNS", str(width))
        outcome = segkd(*command.split(), "--help")
        assert outcome.status == 0
        assert outcome.out.startswith(f"Usage: segkd {command}".rstrip())
        assert max(map(len, outcome.out.splitlines())) <= width
        assert "..." not in outcome.out.replace("...\n", "", 1).replace("[ARGS]...", "")
        assert "None" not in outcome.out

    def test_is_what_no_arguments_show(self):
        assert segkd() == segkd("--help") == segkd("-h")

    def test_short_of_a_command(self):
        assert segkd("data", "check", "-h") == segkd("data", "check", "--help")

    def test_examples_stand_on_lines_of_their_own(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("COLUMNS", "80")
        lines = [line.strip() for line in segkd("train", "--help").out.splitlines()]
        assert "segkd train quickstart" in lines
        assert "segkd train --resume runs/quickstart" in lines


class TestVersion:
    def test_is_that_of_the_package(self):
        assert segkd("--version") == (0, f"segkd {version('segkd')}\n", "")

    def test_of_the_package_run_as_a_module(self, tmp_path: Path):
        done = subprocess.run([sys.executable, "-m", "segkd", "--version"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, f"segkd {version('segkd')}\n")


class TestThreads:
    """Read from what OpenMP itself says, in a child process as a comparison starts one."""

    @pytest.mark.parametrize(("own", "policy"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
    def test_wait_without_taking_the_core_unless_told_otherwise(self, own: str | None, policy: str):
        if sys.platform != "linux":
            pytest.skip("other systems' OpenMP says it otherwise")
        # The OpenMP of PyTorch, without the rest of it.
        openmp = next(Path(torch.__file__).parent.glob("lib/libgomp*"), "libgomp.so.1")
        code = f"""
import subprocess, sys
from segkd import cli

sys.argv = ["segkd", "--version"]
try:
    cli.main()
except SystemExit:
    subprocess.run([sys.executable, "-c", "import ctypes; ctypes.CDLL({str(openmp)!r})"], check=True)
"""
        environment = {**os.environ, "OMP_DISPLAY_ENV": "TRUE"}
        environment.pop("OMP_WAIT_POLICY", None)
        if own is not None:
            environment["OMP_WAIT_POLICY"] = own
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
        assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr


class TestCompletion:
    @pytest.mark.parametrize(
        ("words", "found"),
        [
            ("segkd tr", ["train"]),
            ("segkd data ", ["check", "show"]),
            ("segkd train --res", ["--resume"]),
            ("segkd train camvid_r", ["camvid_rdd"]),
            ("segkd data check quick", ["quickstart", "quickstart_plain", "quickstart_teacher"]),
        ],
    )
    def test_in_bash(self, words: str, found: list[str]):
        environment = {
            **os.environ,
            "_SEGKD_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
        }
        done = subprocess.run([sys.executable, "-m", "segkd"], capture_output=True, text=True, env=environment)
        assert done.stdout.split() == found


class TestUsage:
    @pytest.mark.parametrize(
        ("arguments", "texts"),
        [
            (["trian"], ["No such command 'trian'", "train", "segkd --help"]),
            (["train", "--foo"], ["--foo", "segkd train --help"]),
            (["train"], ["CONFIG", "segkd configs"]),
            (["train", "--resume"], ["--resume"]),
            (["eval"], ["RUN|STUDENT|CONFIG", "segkd eval --help"]),
            (["data"], ["Missing command", "segkd data --help"]),
            (["data", "show", "quickstart", "--count", "many"], ["--count"]),
            (["configs", "extra"], ["extra"]),
        ],
        ids=str,
    )
    def test_is_one_line(self, arguments: list[str], texts: list[str]):
        refused(segkd(*arguments), *texts)

    @pytest.mark.parametrize("command", [["eval"], ["train", "--resume"], ["export"]], ids=" ".join)
    def test_of_weights_in_place_of_a_run_names_the_run(self, tmp_path: Path, command: list[str]):
        path = write(tmp_path / "run/checkpoints/best.ckpt", "\x80")
        write(tmp_path / "run/config.yaml", "name: run\n")
        refused(segkd(*command, path), f"{path} is a file, but a run directory", f"name {tmp_path}/run")

    def test_of_the_console_script_in_a_process_of_its_own(self, tmp_path: Path):
        command = [sys.executable, "-m", "segkd.cli"]
        done = subprocess.run([*command, "train", "quickstrat"], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr == "segkd: there is no config 'quickstrat': did you mean 'quickstart'?\n"
        done = subprocess.run([*command, "configs", "--debug"], capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        assert not list(tmp_path.iterdir())


class TestDebug:
    def test_shows_the_traceback(self, tmp_path: Path):
        command = [sys.executable, "-m", "segkd.cli", "train", "quickstrat", "--debug"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("Traceback")
        assert done.stderr.endswith("there is no config 'quickstrat': did you mean 'quickstart'?\n")

    def test_is_hinted_at_when_nobody_foresaw_it(self, own: Path):
        with cut_at(1):
            outcome = segkd("train", own / "tiny.yaml")
        assert outcome.status == 1
        assert outcome.err == "segkd: PowerCut: the power went (--debug shows where)\n"


class TestBadInput:
    """Each before anything is written; more stand in the table of faults."""

    def test_an_empty_split(self, own: Path):
        shutil.rmtree(own / "camvid" / "val")
        refused(segkd("train", own / "tiny.yaml"), "camvid val: no image matches", str(own / "camvid"))
        assert not (own / "runs").exists()

    def test_an_image_without_mask(self, own: Path):
        (own / "camvid" / "trainannot" / "0001TP_000001.png").unlink()
        refused(segkd("train", own / "tiny.yaml"), "train/0001TP_000001.png has no mask")
        assert not (own / "runs").exists()

    def test_a_teacher_whose_config_has_other_classes(self, own: Path):
        voc = own / "tiny.yaml"
        write(own / "teacher.yaml", {"base": voc.name, "name": "teacher", "data": {"dataset": "cityscapes"}})
        refused(segkd("train", own / "distilled.yaml"), "teacher", "19 classes", "11", "class_map")
        assert not (own / "runs").exists()

    def test_a_teacher_that_teaches_itself(self, own: Path):
        write(own / "distilled.yaml", {**DISTILLED, "teacher": {"config": "distilled.yaml"}})
        refused(segkd("train", own / "distilled.yaml"), "teacher", "distilled")


class TestRunDirectory:
    def test_is_never_taken_from_another_run(self, own: Path):
        with cut_at(3):
            segkd("train", own / "tiny.yaml")
        before = {path: path.stat().st_mtime_ns for path in files(own / "runs")}
        run = own / "runs" / "tiny"
        refused(segkd("train", own / "tiny.yaml"), f"{run} holds a run that is not finished", f"--resume {run}")
        train("--resume", run)
        refused(segkd("train", own / "tiny.yaml"), f"{run} holds a finished run", "name=")
        assert before.keys() <= files(own / "runs")

    def test_other_files_and_files_in_the_way(self, own: Path):
        write(own / "runs" / "tiny" / "notes.txt", "mine")
        write(own / "file", "mine")
        before = files(own)
        refused(segkd("train", own / "tiny.yaml"), "runs/tiny holds other files", "name=")
        refused(segkd("train", own / "tiny.yaml", f"runs={own / 'file'}"), f"{own / 'file'} is a file")
        refused(segkd("train", own / "tiny.yaml", f"runs={own}", "name=file"), f"{own / 'file'} is a file")
        refused(segkd("train", own / "distilled.yaml", "name=x", f"runs={own / 'file' / 'deep'}"), "is a file")
        refused(segkd("train", own / "tiny.yaml", "runs=/proc"), "/proc/tiny", "cannot be")
        assert files(own) == before


class TestMidRun:
    """What only reading finds: one line that names the path, however the loader works."""

    @pytest.mark.parametrize("workers", [0, 1])
    @pytest.mark.parametrize("split", ["train", "val"])
    def test_a_broken_image(self, own: Path, split: str, workers: int):
        for path in (own / "camvid" / split).iterdir():
            path.write_bytes(path.read_bytes()[:200])
        outcome = segkd("train", own / "tiny.yaml", f"data.workers={workers}", "validation.pictures=0")
        refused(outcome, f"camvid/{split}/0001TP_00000")
        assert not (own / "runs" / "tiny" / "student").exists()

    def test_a_mask_of_another_size(self, own: Path):
        for path in (own / "camvid" / "trainannot").iterdir():
            Image.fromarray(np.eye(4, 5, dtype=np.uint8)).save(path)
        refused(segkd("train", own / "tiny.yaml"), "trainannot/0001TP_00000", "5x4", "96x64")

    def test_a_label_outside_the_map(self, own: Path):
        for path in (own / "camvid" / "trainannot").iterdir():
            Image.fromarray(np.full((64, 96), 77, np.uint8)).save(path)
        refused(segkd("train", own / "tiny.yaml"), "trainannot/0001TP_00000", "77")
