import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from experiments import refused, segkd
from torch import nn

from segkd.deployment.bench import bench, interleaved
from segkd.deployment.export import export
from segkd.errors import SegkdError
from segkd.models.saved import load_student


def macs_of(model: nn.Module, height: int, width: int) -> int:
    """Count multiplications by hand: each number that a convolution gives takes as many as one filter has weights."""
    counts: list[int] = []

    def count(module: nn.Conv2d, _inputs: object, output: torch.Tensor) -> None:
        counts.append(output.numel() * module.weight[0].numel())

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d)]
    with torch.no_grad():
        model(torch.zeros(1, 3, height, width))
    for hook in hooks:
        hook.remove()
    return sum(counts)


@pytest.fixture(scope="module")
def run(shipped: Path) -> Path:
    """A run with a file of any size and batch."""
    export(shipped / "runs/distilled", "torchscript")
    return shipped / "runs/distilled"


def copy(run: Path, to: Path) -> Path:
    return shutil.copytree(run, to, ignore=shutil.ignore_patterns("checkpoints"))


class TestModels:
    def test_teacher_student_and_files_with_their_size(self, run: Path, shipped: Path):
        result = bench([run], images=2, batch_size=2, threads=1)
        teacher, student, file = result.rows
        assert [row.model for row in result.rows] == ["teacher", "student", "student.pt"]
        assert {row.run for row in result.rows} == {str(run)}
        assert (result.size, result.images, result.batch_size, result.threads) == ((64, 96), 2, 2, 1)
        assert result.remarks == []
        teachers = shipped / "runs/teacher/student"
        for row, folder in ((teacher, teachers), (student, run / "student")):
            model = load_student(folder).model
            assert row.parameters == sum(parameter.numel() for parameter in model.parameters())
            assert row.macs == macs_of(model, 64, 96)
            assert row.bytes == (folder / "model.safetensors").stat().st_size
        assert (file.parameters, file.macs) == (None, None)
        assert file.bytes == (run / "export/student.pt").stat().st_size
        assert all(0 < row.latency < 10 and row.rate > 0 for row in result.rows)

    def test_macs_grow_with_the_size(self, run: Path):
        rows = [bench([run], images=1, batch_size=1, size=size).rows[1] for size in ((64, 96), (128, 192))]
        assert rows[0].macs is not None
        assert rows[1].macs == 4 * rows[0].macs

    def test_a_teacher_of_two_runs_is_measured_once(self, run: Path, tmp_path: Path):
        other = copy(run, tmp_path / "other")
        shutil.rmtree(other / "export")
        result = bench([run, other], images=1, batch_size=1)
        assert [row.model for row in result.rows] == ["teacher", "student", "student.pt", "student"]
        assert [line[0] for line in result.table()] == [
            "model",
            str(run),
            "  teacher",
            "  student",
            "  student.pt",
            str(other),
            "  student",
        ]

    def test_detectors(self, detector: Path, tmp_path: Path):
        other = copy(detector, tmp_path / "detector")
        export(other, "torchscript")
        result = bench([other], images=2, batch_size=2)
        assert [row.model for row in result.rows] == ["student", "student.pt"]
        student, file = result.rows
        assert student.macs is not None
        assert student.macs > 0
        # The file takes one image only.
        assert file.rate == pytest.approx(1 / file.latency)
        assert student.rate != pytest.approx(1 / student.latency)


class TestWhatIsLeftOut:
    def test_a_teacher_whose_weights_are_gone(self, run: Path, tmp_path: Path):
        other = copy(run, tmp_path / "other")
        text = (other / "config.yaml").read_text()
        config = str(run.parents[1] / "teacher.yaml")
        assert config in text
        (tmp_path / "teacher.yaml").write_text(
            Path(config).read_text().replace("base: tiny.yaml", f"base: {run.parents[1]}/tiny.yaml") + "\n"
        )
        (other / "config.yaml").write_text(text.replace(config, str(tmp_path / "teacher.yaml")))
        result = bench([other], images=1, batch_size=1, overrides=[f"runs={tmp_path}/gone"])
        assert [row.model for row in result.rows] == ["student", "student.pt"]
        (remark,) = result.remarks
        assert remark.startswith(f"{other}: teacher left out: ")
        assert remark in str(result)

    def test_files_of_another_size_and_of_others(self, run: Path, tmp_path: Path):
        other = copy(run, tmp_path / "other")
        (other / "export/mine.pt2").write_bytes(b"mine")
        (other / "export/notes.txt").write_text("not one of the formats: no remark")
        result = bench([other], images=1, batch_size=1)
        assert [row.model for row in result.rows] == ["teacher", "student", "student.pt"]
        assert [remark.split(" left out")[0] for remark in result.remarks] == ["mine.pt2"]

    def test_a_run_without_exported_files(self, run: Path, tmp_path: Path):
        other = copy(run, tmp_path / "other")
        shutil.rmtree(other / "export")
        result = bench([run, other], images=1, batch_size=1)
        assert result.remarks == [f"{other}: no exported file; 'segkd export {other}' makes one to measure"]

    def test_a_detectors_file_of_another_size(self, detector: Path, tmp_path: Path):
        other = copy(detector, tmp_path / "detector")
        export(other, "torchscript")
        result = bench([other], images=1, batch_size=1, size=(64, 64))
        assert [row.model for row in result.rows] == ["student"]
        (remark,) = result.remarks
        assert remark.startswith("student.pt left out: ")
        assert "takes images of" in remark


class TestCommand:
    def test_table_and_json(self, run: Path, tmp_path: Path):
        path = tmp_path / "figures.json"
        outcome = segkd("bench", run, "--images", 2, "--batch-size", 2, "--threads", 1, "--json", path)
        assert outcome.status == 0, outcome.err
        lines = outcome.out.splitlines()
        assert lines[0].split() == ["model", "parameters", "MACs", "file", "latency", "images/s"]
        rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}
        assert list(rows) == ["teacher", "student", "student.pt"]
        assert rows["student"][1::2][:3] == ["M", "G", "MB"]
        assert lines[-1].startswith("2 images of 64x96, ")
        assert lines[-1].endswith("with 1 thread")
        figures = json.loads(path.read_text())
        assert [model["model"] for model in figures["models"]] == ["teacher", "student", "student.pt"]
        assert figures["size"] == [64, 96]
        assert figures["environment"]["threads"] == figures["threads"] == 1
        assert list(tmp_path.iterdir()) == [path]


class TestBadInput:
    def test_runs(self, run: Path, detector: Path, tmp_path: Path):
        refused(segkd("bench", tmp_path / "none"), "there is no run", "none")
        refused(segkd("bench", "data.root=/data"), "at least one run")
        refused(segkd("bench", run, detector), "is of another task than")
        (tmp_path / "begun").mkdir()
        shutil.copy(run / "config.yaml", tmp_path / "begun")
        refused(segkd("bench", tmp_path / "begun"), "begun is not finished")

    def test_sizes(self, run: Path):
        refused(segkd("bench", run, "--size", "64,96"), "expected HxW", "64,96", "segkd bench --help")
        refused(segkd("bench", run, "--size", "0x96"), "expected HxW")
        refused(segkd("bench", run, "--size", "65x96", "--images", 1), "does not take images of 65x96")

    def test_data_that_are_not_there(self, run: Path):
        refused(segkd("bench", run, "data.root=/nowhere"), "no folder /nowhere", "data.root")

    def test_a_json_file_that_cannot_be_written_is_known_at_once(self, run: Path, tmp_path: Path):
        refused(segkd("bench", run, "--json", tmp_path / "none/a.json"), "none/a.json cannot be written")
        refused(segkd("bench", run, "--json", tmp_path), f"{tmp_path} cannot be written")


def test_each_round_goes_through_all_models_and_each_warms_up_first():
    order: list[tuple[str, int]] = []
    calls = [lambda value, name=name: order.append((name, value)) for name in "ab"]
    assert len(interleaved(calls, [1, 2])) == 2
    assert order == [("a", 1), ("a", 1), ("b", 1), ("b", 1), ("a", 2), ("a", 2), ("b", 2), ("b", 2)]


def test_the_median_of_each_model():
    slow, fast = interleaved([time.sleep, lambda seconds: None], [0.01, 0.02, 0.2])
    assert 0.02 <= slow < 0.15
    assert fast < 0.01


def test_no_gradients_are_kept():
    enabled: list[bool] = []
    interleaved([lambda value: enabled.append(torch.is_grad_enabled())], [0])
    assert enabled == [False, False]


def test_threads_are_set_and_given_back(run: Path):
    before = torch.get_num_threads()
    assert bench([run], images=1, batch_size=1, threads=before + 1).threads == before + 1
    assert torch.get_num_threads() == before
    assert bench([run], images=1, batch_size=1).threads == before
    with pytest.raises(SegkdError, match="does not take images of 65x96"):
        bench([run], images=1, size=(65, 96), threads=before + 1)
    assert torch.get_num_threads() == before
