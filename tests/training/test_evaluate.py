import json
import shutil
from pathlib import Path

import pytest
from experiments import refused, segkd

from segkd.training.measure import evaluate


def test_a_run_measures_what_it_recorded(trained: Path):
    result = evaluate(str(trained / "runs/distilled"), [])
    recorded = json.loads((trained / "runs/distilled/result.json").read_text())
    assert result["student"]["miou"] == pytest.approx(recorded["student"]["miou"], abs=1e-9)
    assert result["student"]["iou"] == pytest.approx(recorded["student"]["iou"], abs=1e-9)
    assert result["teacher"]["miou"] == pytest.approx(recorded["teacher"]["miou"], abs=1e-9)
    assert result["classes"] == recorded["classes"]
    assert result["split"] == "val"


def test_a_run_that_was_moved(trained: Path, tmp_path: Path):
    shutil.copytree(trained / "runs/teacher", tmp_path / "moved")
    recorded = json.loads((trained / "runs/teacher/result.json").read_text())
    result = evaluate(str(tmp_path / "moved"), [])
    assert result["student"]["miou"] == pytest.approx(recorded["student"]["miou"], abs=1e-9)
    assert "teacher" not in result


def test_a_student_without_its_run(trained: Path, tmp_path: Path):
    student = tmp_path / "alone"
    shutil.copytree(trained / "runs/distilled/student", student)
    recorded = evaluate(str(trained / "runs/distilled"), [])
    result = evaluate(str(student), [f"data.root={trained / 'camvid'}"])
    assert result["student"] == recorded["student"]
    assert (result["split"], "teacher" in result) == ("val", False)
    assert evaluate(str(trained / "runs/distilled/student"), [])["student"] == recorded["student"]
    refused(segkd("eval", student, "data.dataset=cityscapes"), "alone tells other classes apart", "cityscapes")
    config = json.loads((student / "config.json").read_text())
    config["_segkd"]["dataset"] = "my_set"
    (student / "config.json").write_text(json.dumps(config))
    refused(segkd("eval", student), f"{student} is of data set 'my_set', which is none", "data.dataset=my_set.yaml")
    assert evaluate(str(student), [f"data.dataset={trained / 'camvid/camvid.yaml'}"])["student"] == recorded["student"]
    refused(segkd("eval", student, "data.dataset=camvdi"), "no data set 'camvdi'", "did you mean 'camvid'?")
    del config["_segkd"]["dataset"]
    (student / "config.json").write_text(json.dumps(config))
    refused(segkd("eval", student), "alone does not say what data it is of", "data.dataset=")


def test_a_config_finds_its_run_and_its_teachers(trained: Path):
    result = evaluate(str(trained / "distilled.yaml"), [])
    assert result == evaluate(str(trained / "runs/distilled"), [])


def test_a_config_without_a_run_measures_its_teacher(trained: Path):
    result = evaluate(str(trained / "distilled.yaml"), ["name=never_run"])
    assert "student" not in result
    assert result["teacher"]["miou"] > 0


def test_a_checkpoint_as_student(trained: Path):
    result = evaluate(
        str(trained / "tiny.yaml"), ["name=never_run", f"student.checkpoint={trained / 'runs/distilled'}"]
    )
    recorded = json.loads((trained / "runs/distilled/result.json").read_text())
    assert result["student"]["miou"] == pytest.approx(recorded["student"]["miou"], abs=1e-9)


def test_overrides_change_how_it_is_measured(trained: Path):
    whole = evaluate(str(trained / "runs/distilled"), [])
    small = evaluate(str(trained / "runs/distilled"), ["validation.resize=[32,32]"])
    train_split = evaluate(str(trained / "runs/distilled"), ["data.val_split=train"])
    assert len({result["student"]["pixel_accuracy"] for result in (whole, small, train_split)}) == 3
    assert train_split["split"] == "train"


def test_a_trained_student_is_measured_as_it_is(trained: Path, tmp_path: Path):
    alone = shutil.copytree(trained / "runs/distilled/student", tmp_path / "alone")
    for target, of in (("runs/distilled", "distilled"), ("distilled.yaml", "distilled"), ("runs/teacher", "teacher")):
        for command in ("eval", "export", "bench"):
            outcome = segkd(command, trained / target, "student.arch=FPN")
            refused(outcome, f"student.arch: the trained student of {trained / 'runs' / of} is used as it is", "name=")
    refused(segkd("eval", alone, "student.arch=FPN"), f"student.arch: {alone} is a saved student, which is used as it")


def test_what_is_printed(trained: Path):
    outcome = segkd("eval", trained / "runs/distilled")
    assert outcome.status == 0
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["val,", "%", "teacher", "student"]
    assert lines[1].startswith("mIoU")
    assert len(lines) == 1 + 3 + 11


def test_a_student_trained_in_mixed_precision_is_measured_in_single_and_says_so(trained: Path, tmp_path: Path):
    assert segkd("train", trained / "tiny.yaml", f"runs={tmp_path}", "trainer.precision=bf16-mixed").status == 0
    outcome = segkd("eval", tmp_path / "tiny")
    says = "tiny: the student is measured in float32, as it is exported; its run's own figures are of bf16-mixed"
    assert says in " ".join(outcome.out.split()) + " ".join(outcome.err.split())
    run, saved = (evaluate(str(tmp_path / place), [])["student"] for place in ("tiny", "tiny/student"))
    assert run == saved


def test_the_accelerator_of_the_config_and_the_device_of_the_command(trained: Path):
    run = trained / "runs/teacher"
    refused(segkd("eval", run, "trainer.accelerator=cuda"), "teacher: trainer.accelerator 'cuda'", "there are: cpu")
    on_cpu = segkd("eval", run, "trainer.accelerator=cuda", "--device", "cpu")
    assert (on_cpu.status, on_cpu.out) == (0, segkd("eval", run).out)


def test_figures_as_json(trained: Path, tmp_path: Path):
    outcome = segkd("eval", trained / "runs/distilled", "--json", tmp_path / "figures.json")
    assert outcome.status == 0
    figures = json.loads((tmp_path / "figures.json").read_text(), parse_constant=pytest.fail)
    result = evaluate(str(trained / "runs/distilled"), [])
    assert figures.keys() == result.keys()
    assert figures["student"]["miou"] == result["student"]["miou"]
    assert figures["classes"] == result["classes"]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]


def test_nothing_to_measure(trained: Path, tmp_path: Path):
    refused(segkd("eval", trained / "tiny.yaml", "name=never_run"), "nothing to measure", "runs/never_run")
    refused(segkd("eval", tmp_path), "no run directory")
    refused(segkd("eval", tmp_path / "none.yaml"), "there is no config")
    refused(segkd("eval", trained / "runs/distilled", "data.val_split=tset"), "'tset'", "did you mean 'test'?")


def test_a_damaged_student(trained: Path, tmp_path: Path):
    run = shutil.copytree(trained / "runs/teacher", tmp_path / "damaged")
    (run / "student/model.safetensors").write_bytes(b"half")
    refused(segkd("eval", run), "student/model.safetensors")
    (run / "student/config.json").write_text("{}")
    refused(segkd("eval", run), "student/config.json")
