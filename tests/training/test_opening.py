import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from experiments import make_experiment, refused, write
from experiments import segkd as segkd_command
from networks import segmenter

import segkd
from segkd.errors import SegkdError
from segkd.models.saved import OwnCode
from segkd.network import Network
from segkd.training.opening import open_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with configs, and a run that has a student and looks finished."""
    found = make_experiment(tmp_path)
    run = found / "runs/tiny"
    write(run / "config.yaml", f"base: {found}/tiny.yaml\n")
    write(run / "result.json", "{}")
    segmenter(classes=11, recorded={"dataset": "tiny"}).save(run / "student")
    return found


class TestARun:
    def test_its_directory_and_the_folder_in_it_and_its_config_are_the_same(self, folder: Path):
        run = folder / "runs/tiny"
        for target in (run, run / "student", folder / "tiny.yaml"):
            found = open_model(target, [f"runs={folder}/runs"])
            assert found.home.resolve() == run.resolve()
            assert found.weights.resolve() == (run / "student/model.safetensors").resolve()
            assert not found.network.training
            assert found.task is not None

    def test_that_is_not_finished(self, folder: Path):
        (folder / "runs/tiny/result.json").unlink()
        with pytest.raises(SegkdError, match=r"is not finished: go on with 'segkd train --resume .*tiny'"):
            open_model(folder / "runs/tiny")

    def test_its_config_is_not_read_where_only_the_model_is_wanted(self, folder: Path):
        write(folder / "runs/tiny/config.yaml", "nonsense: 1\n")
        assert open_model(folder / "runs/tiny", needs_config=False).task is None

    def test_its_student_is_used_as_it_is(self, folder: Path):
        here = f"runs={folder}/runs"
        for target in (folder / "runs/tiny", folder / "runs/tiny/student", folder / "tiny.yaml"):
            for change in ("student.arch=FPN", "student.options.decoder_dropout=0", "student.checkpoint=a.pth"):
                key = re.escape(change.partition("=")[0])
                with pytest.raises(SegkdError, match=rf"^{key}: the trained student of .*tiny is used as it is; begin"):
                    open_model(target, [here, change])
            open_model(target, [here, "student.arch=DeepLabV3Plus"])  # which it is
        with pytest.raises(SegkdError, match=r"^student\.arch: the trained student"):
            open_model(folder / "runs/tiny", {"student": {"arch": "FPN"}})


class TestAStudentAlone:
    def test_it_opens_and_has_no_data(self, folder: Path, tmp_path: Path):
        alone = shutil.copytree(folder / "runs/tiny/student", tmp_path / "given")
        found = open_model(alone)
        assert (found.home, found.task) == (alone, None)
        with pytest.raises(SegkdError, match=r"data\.root=/a: .*given is a student without a run"):
            open_model(alone, ["data.root=/a"])


class TestLoadStudent:
    def test_takes_a_run_a_students_folder_and_a_config(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(folder)
        image = np.zeros((64, 64, 3), np.uint8)
        found = [segkd.load_student(name).predict(image) for name in ("runs/tiny", "runs/tiny/student", "tiny.yaml")]
        assert all((each == found[0]).all() for each in found)

    def test_of_what_is_not_there(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(folder)
        for name, says in (("runs/tinny", "no run"), ("tinny.yaml", "did you mean 'tiny'")):
            with pytest.raises(SegkdError, match=says):
                segkd.load_student(name)

    def test_a_folder_names_no_code(self, folder: Path, tmp_path: Path):
        alone = tmp_path / "given"
        own = Network(torch.nn.Conv2d(3, 11, 1), classes=[str(k) for k in range(11)], family="python", settings={})
        own.save(alone)
        with pytest.raises(OwnCode, match="made by code of one's own"):
            segkd.load_student(alone)
        teacher = {"family": "smp", "checkpoint": str(alone)}
        write(
            folder / "taught.yaml", {"base": "distilled.yaml", "name": "taught", "teacher": {"config": None, **teacher}}
        )
        refused(segkd_command("train", folder / "taught.yaml"), "code of one's own", "name it as teacher.build")

    @pytest.mark.parametrize("command", ["predict", "eval"])
    @pytest.mark.parametrize(
        "where",
        [
            "student.build",
            "task",
            "teacher.family",
            "data.dataset",
            "a list",
            "in a base",
            "a teacher's config",
            "a teacher's overrides",
            "its own teacher",
            "within",
        ],
    )
    def test_nor_does_what_lies_beside_it(
        self, where: str, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A stranger may have put a config, and code, beside the student that was asked for."""
        run = folder / "runs/tiny"
        write(run / "evil.py", "raise SystemError('imported')\n")
        write(run / "set.yaml", {"format": "evil:Format", "name": "tiny"})
        named = {
            "student.build": {"base": f"{folder}/tiny.yaml", "student": {"family": "python", "build": "evil:make"}},
            "task": {"base": f"{folder}/tiny.yaml", "task": "evil:Task"},
            "teacher.family": {"base": f"{folder}/tiny.yaml", "teacher": {"family": "evil:Family"}},
            "data.dataset": {"base": f"{folder}/tiny.yaml", "data": {"dataset": "set.yaml"}},
            "a list": {"base": f"{folder}/tiny.yaml", "data": {"dataset": "list.yaml"}},
            "in a base": {"base": "other.yaml"},
            "a teacher's config": {"base": f"{folder}/tiny.yaml", "teacher": {"config": "other.yaml"}},
            "its own teacher": {"base": f"{folder}/tiny.yaml", "teacher": {"config": "config.yaml"}},
        }
        of_teacher = {"config": f"{folder}/tiny.yaml", "overrides": {"task": "evil:Task"}}
        named["a teacher's overrides"] = {"base": f"{folder}/tiny.yaml", "teacher": of_teacher}
        named["within"] = named["task"]
        write(run / "list.yaml", "[1]")
        write(run / "other.yaml", {**named["task"], "python_path": ["."]})
        inner = run / "student" if where == "within" else run
        write(inner / "config.yaml", {**named[where], "python_path": [str(run)]})
        monkeypatch.chdir(folder)
        found = segkd_command(command, run / "student", *(["images"] if command == "predict" else []))
        assert "imported" not in found.err
        assert "evil" not in sys.modules


class TestAConfig:
    def test_without_a_run_its_checkpoint(self, folder: Path, tmp_path: Path):
        changes = [f"runs={tmp_path}/none", f"student.checkpoint={tmp_path}/a.pth"]
        with pytest.raises(SegkdError, match=r"not trained: 'segkd train .*tiny.yaml' makes .*none/tiny"):
            open_model(folder / "tiny.yaml", changes[:1])
        task = open_model(folder / "runs/tiny").task
        assert task is not None
        made = open_model_of_checkpoint(task, tmp_path / "a.pth")
        found = open_model(folder / "tiny.yaml", changes)
        assert found.network.info["mean"] == pytest.approx([0.5, 0.5, 0.5])
        assert all(torch.equal(value, made[key]) for key, value in found.network.module.state_dict().items())


def open_model_of_checkpoint(task, path: Path) -> dict[str, torch.Tensor]:
    """Write weights of the task's student, and return them."""
    student = task.student(weights=False)
    state = getattr(student, "module", student).state_dict()
    torch.save(state, path)
    return state


def test_what_is_nothing(tmp_path: Path):
    with pytest.raises(SegkdError, match=r"there is no run .*none"):
        open_model(tmp_path / "none")
    with pytest.raises(SegkdError, match="not a finished run or a student"):
        open_model(tmp_path)
