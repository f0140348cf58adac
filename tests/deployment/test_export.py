import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from experiments import refused, segkd, train
from pages import blocks
from PIL import Image
from torch import Tensor

from segkd.deployment.export import Export, export
from segkd.deployment.formats import FORMATS, read_info, save_onnx
from segkd.detection.models import detect
from segkd.errors import SegkdError
from segkd.models.saved import load_student

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "export"))


@pytest.fixture(scope="module")
def written(shipped: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A run's export as ONNX; read only."""
    return export(copy(shipped / "runs/distilled", tmp_path_factory.mktemp("written")), "onnx")


def image_of(folder: Path) -> np.ndarray:
    return np.asarray(Image.open(sorted((folder / "camvid/val").iterdir())[0]).convert("RGB"))


def alone(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Segment an image with nothing but the file and what is recorded in it; return the classes."""
    info = read_info(path)
    height, width = info["size"]
    assert pixels.shape[:2] == (height, width)
    images = ((pixels / 255 - info["mean"]) / info["std"]).transpose(2, 0, 1)[None]
    (logits,) = FORMATS[{".onnx": "onnx", ".pt": "torchscript", ".pt2": "pt2"}[path.suffix]].open(path, 1)(
        torch.tensor(images, dtype=torch.float32)
    )
    return logits[0].argmax(0).numpy()


class TestFormats:
    @pytest.mark.parametrize("name", FORMATS)
    def test_the_file_alone_predicts_what_the_student_predicts(
        self, name: str, written: Export, shipped: Path, tmp_path: Path
    ):
        result = written if name == "onnx" else export(copy(shipped / "runs/distilled", tmp_path), name)
        run = result.path.parents[1]
        assert result.path == run / f"export/student{FORMATS[name].suffix}"
        assert list(result.path.parent.iterdir()) == [result.path]
        assert result.check.images == 3
        assert result.check.difference < 1e-4
        assert result.check.share > 0.999
        assert result.fixed is None
        assert read_info(result.path) == result.info
        assert result.info["dynamic"] == ["batch", "height", "width"]
        pixels = image_of(shipped)
        expected = load_student(run).predict(pixels)
        assert (alone(result.path, pixels) == expected).mean() > 0.999

    def test_the_lines_of_the_docs_give_what_predict_gives(
        self, written: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        block = next(block for block in blocks("python") if block.page.name == "export.md")
        assert len([line for line in block.text.splitlines() if line.strip()]) <= 16
        run, picture = tmp_path / "runs/quickstart", tmp_path / "photos/0.png"
        shutil.copytree(written.path.parents[1], run)
        picture.parent.mkdir()
        monkeypatch.chdir(tmp_path)
        file = run / "export/student.onnx"
        student = load_student("runs/quickstart")
        found = set()
        for size in (None, [48, 64], [96, 160], [48, 160]):
            # As a student of another validation.resize has it recorded, itself and in its file.
            student.preprocess = replace(student.preprocess, size=size and (size[0], size[1]))
            save_onnx(onnx.load(file), {**read_info(file), "resize": size}, file)
            for seed, shape in enumerate([(64, 96), (50, 71), (33, 130)]):
                noise = np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)
                cv2.imwrite(str(picture), cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, 32))
                names: dict[str, Any] = {}
                exec(compile(block.text, str(block), "exec"), names)
                expected = student.predict(Image.open(picture))
                np.testing.assert_array_equal(names["classes"], expected)
                found |= set(np.unique(expected))
        assert len(found) > 1

    def test_what_is_recorded(self, shipped: Path, tmp_path: Path):
        run = copy(shipped / "runs/distilled", tmp_path)
        info = export(run, "torchscript").info
        recorded = json.loads((run / "student/config.json").read_text())["_segkd"]
        for key in ("version", "classes", "colors", "ignore_index", "mean", "std", "dataset"):
            assert info[key] == recorded[key], key
        assert (info["size"], info["size_multiple"]) == ([64, 96], 32)
        assert (info["resize"], info["interpolation"]) == (recorded["size"], {"smaller": "area", "larger": "linear"})
        words = ["read", "resize", "divide", "repeat", "run", "cut", "resize", "take"]
        assert [step.split()[0] for step in info["steps"]] == words

    def test_of_a_student_with_an_auxiliary_head_the_inner_model(self, shipped: Path, tmp_path: Path):
        train(
            shipped / "tiny.yaml",
            "name=auxiliary",
            f"runs={tmp_path}",
            "student.auxiliary=true",
            "trainer.max_steps=1",
        )
        result = export(tmp_path / "auxiliary", "torchscript")
        (logits,) = FORMATS["torchscript"].open(result.path, 1)(torch.rand(1, 3, 64, 96))
        assert logits.shape == (1, 11, 64, 96)


@pytest.mark.slow
@pytest.mark.skipif(torch.__version__.startswith("2.6"), reason="PyTorch 2.6 cannot export PSPNet to ONNX at all")
def test_where_another_size_fails_the_size_is_fixed_and_said_so(shipped: Path, tmp_path: Path):
    """PSPNet's pooling to fixed sizes has, in ONNX, the indices of the size that was exported."""
    train(shipped / "tiny.yaml", "name=psp", f"runs={tmp_path}", "student.arch=PSPNet", "trainer.max_steps=1")
    outcome = segkd("export", tmp_path / "psp")
    assert outcome.status == 0, outcome.err
    assert "fixed size 64x96; any batch" in outcome.out
    assert "the size is fixed, since with a dynamic one it" in outcome.out
    path = tmp_path / "psp/export/student.onnx"
    assert read_info(path)["dynamic"] == ["batch"]
    run = FORMATS["onnx"].open(path, 1)
    assert run(torch.rand(5, 3, 64, 96))[0].shape == (5, 11, 64, 96)


def test_int8_is_smaller_measured_and_printed(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, results = copy(shipped / "runs/distilled", tmp_path), list[Export]()

    def noted(*arguments: Any, **named: Any) -> Export:
        results.append(export(*arguments, **named))
        return results[0]

    monkeypatch.setattr("segkd.deployment.export.export", noted)
    outcome = segkd("export", run, "--int8")
    assert outcome.status == 0, outcome.err
    (result,) = results
    assert result.path == run / "export/student.int8.onnx"
    assert list(result.path.parent.iterdir()) == [result.path]
    assert result.path.stat().st_size < (run / "student/model.safetensors").stat().st_size / 3
    assert result.check.difference < 1e-4
    int8 = result.int8
    assert int8 is not None
    recorded = json.loads((run / "result.json").read_text())["student"]["miou"]
    assert int8.score.key == "miou"
    assert int8.before == pytest.approx(recorded, abs=1e-3)
    assert int8.after == pytest.approx(int8.before, abs=0.1)
    assert int8.after != int8.before
    assert 0.8 < int8.check.share < 1
    assert int8.images == 5
    assert min(int8.seconds) > 0
    assert read_info(result.path)["int8"] == {"calibrated_on": "5 images of train", "float32_nodes": int8.left}
    pixels = image_of(shipped)
    assert (alone(result.path, pixels) == load_student(run).predict(pixels)).mean() > 0.8

    lines = outcome.out.splitlines()
    assert lines[0].startswith(f"{result.path}: ")
    assert lines[0].endswith("made for 64x96, takes multiples of 32; any batch")
    assert lines[1].startswith("in float32, checked on 3 validation images against PyTorch: largest logit difference ")
    assert lines[2].startswith("int8: calibrated on 5 training images")
    assert lines[3].startswith("  mIoU: ")
    assert lines[4].startswith("  latency of one image: ")
    assert lines[5].startswith("  against PyTorch: largest logit difference ")
    assert len(lines) == 6


class TestDetectors:
    @pytest.mark.parametrize(
        ("name", "arch"),
        [(name, arch) for arch in ("retinanet", "gfl") for name in ("onnx", "torchscript")] + [("onnx", "atss")],
    )
    def test_boxes_of_the_file_are_those_of_the_student(self, name: str, arch: str, detectors: Path, tmp_path: Path):
        run = copy(detectors / arch, tmp_path)
        result = export(run, name)
        # Enough that a share of equal boxes means something; the others, hardly trained, keep few after suppression.
        assert result.check.total > {"retinanet": 100, "gfl": 20, "atss": 20}[arch]
        assert result.check.share > 0.99
        assert result.info["task"] == "detection"
        height, width = result.info["size"]
        image = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
        boxes, labels, scores = FORMATS[name].open(result.path, 1)(image)
        (found,) = detect(load_student(run).model, [image])
        assert torch.allclose(boxes, found["boxes"], atol=0.01)
        assert torch.equal(labels, found["labels"])
        assert torch.allclose(scores, found["scores"], atol=1e-5)
        assert ("import torchvision before it is opened" in str(result)) == (name == "torchscript")

    def test_what_cannot_be_had(self, detector: Path):
        refused(
            segkd("export", detector, "--format", "pt2"),
            "RetinaNet cannot be exported as pt2: only as onnx or torchscript",
        )
        refused(segkd("export", detector, "--int8"), "RetinaNet cannot be exported in int8", "leave out --int8")
        assert not (detector / "export").exists()


class TestNothingIsLost:
    def test_an_earlier_export_is_replaced(self, shipped: Path, tmp_path: Path):
        run = copy(shipped / "runs/distilled", tmp_path)
        path = export(run, "torchscript").path
        before = path.stat().st_mtime_ns
        assert export(run, "torchscript").path == path
        assert path.stat().st_mtime_ns > before
        assert list(path.parent.iterdir()) == [path]

    def test_another_file_is_not(self, shipped: Path, tmp_path: Path):
        mine = tmp_path / "mine.pt"
        torch.save({"weight": torch.ones(1)}, mine)
        content = mine.read_bytes()
        outcome = segkd("export", shipped / "runs/distilled", "--format", "torchscript", "--out", mine)
        refused(outcome, "mine.pt is no file that segkd exported", "not overwritten", "--out")
        assert mine.read_bytes() == content

    def test_a_model_that_computes_something_else_when_it_is_recorded(
        self, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        forward = smp.FPN.forward

        def other(self: smp.FPN, images: Tensor) -> Tensor:
            return forward(self, images) + float(torch.jit.is_tracing()) * 0.5

        monkeypatch.setattr(smp.FPN, "forward", other)
        out = tmp_path / "student.pt"
        outcome = segkd("export", shipped / "runs/distilled", "--format", "torchscript", "--out", out)
        refused(outcome, "student.pt is not written", "largest logit difference 5.0e-01", "100.000 % of")
        assert list(tmp_path.iterdir()) == []

    def test_a_model_that_cannot_be_recorded(self, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        forward = smp.FPN.forward

        def other(self: smp.FPN, images: Tensor) -> Tensor:
            if torch.jit.is_tracing():
                raise RuntimeError("no way\nto record this")
            return forward(self, images)

        monkeypatch.setattr(smp.FPN, "forward", other)
        out = tmp_path / "student.pt"
        outcome = segkd("export", shipped / "runs/distilled", "--format", "torchscript", "--out", out)
        refused(outcome, "FPN cannot be exported as TorchScript", "no way to record this", "--format onnx or pt2")
        assert list(tmp_path.iterdir()) == []


class TestBadInput:
    def test_formats(self, shipped: Path):
        run = shipped / "runs/distilled"
        refused(segkd("export", run, "--format", "onx"), "no format 'onx': did you mean 'onnx'?")
        refused(segkd("export", run, "--format", "torchscript", "--int8"), "--int8 goes with --format onnx")

    def test_runs(self, shipped: Path, tmp_path: Path):
        refused(segkd("export", tmp_path / "none"), "there is no run", "none")
        (tmp_path / "begun").mkdir()
        shutil.copy(shipped / "runs/distilled/config.yaml", tmp_path / "begun")
        refused(segkd("export", tmp_path / "begun"), "begun is not finished", "segkd train --resume")

    def test_files(self, shipped: Path, tmp_path: Path):
        run = shipped / "runs/distilled"
        refused(segkd("export", run, "--out", tmp_path / "none/a.onnx"), "there is no folder", "none")
        refused(segkd("export", run, "--out", tmp_path / "a.pt"), "a.pt", "ends in .onnx")
        (tmp_path / "folder.onnx").mkdir()
        refused(segkd("export", run, "--out", tmp_path / "folder.onnx"), "folder.onnx is no file that segkd exported")

    def test_data_that_are_not_there(self, shipped: Path):
        outcome = segkd("export", shipped / "runs/distilled", "data.root=/nowhere")
        refused(outcome, "no folder /nowhere", "data.root")

    def test_a_package_that_is_not_installed(self, shipped: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setitem(sys.modules, "onnxscript", None)
        outcome = segkd("export", shipped / "runs/distilled")
        refused(outcome, 'ONNX needs onnxscript: pip install "segkd[export]"')

    def test_a_folder_that_cannot_be_made(self, shipped: Path, tmp_path: Path):
        run = copy(shipped / "runs/distilled", tmp_path)
        (run / "export").write_text("in the way")
        refused(segkd("export", run, "--format", "torchscript"), "export/student.pt cannot be written")
        assert sorted(path.name for path in run.iterdir() if path.name.startswith(".export")) == []

    def test_a_student_that_is_damaged(self, shipped: Path, tmp_path: Path):
        run = copy(shipped / "runs/distilled", tmp_path)
        (run / "student/model.safetensors").write_bytes(b"half")
        with pytest.raises(SegkdError, match=r"model\.safetensors"):
            export(run, "torchscript")
        assert not (run / "export").exists()
