import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trees
from experiments import cut_at, make_experiment, measured, refused, same, segkd, train, weights
from PIL import Image
from torch import nn

from segkd import load_student
from segkd.common.reading import read_photo
from segkd.distiller import Distiller
from segkd.errors import SegkdError
from segkd.training.config import load_config
from segkd.training.detection.schema import DetectionConfig
from segkd.training.detection.task import DetectionTask
from segkd.training.measure import evaluate
from segkd.training.teacher import TeacherOf


@pytest.fixture
def task(experiment: Path) -> DetectionTask:
    config = load_config(str(experiment / "tiny.yaml"))
    assert isinstance(config, DetectionConfig)
    return DetectionTask(config)


def test_a_limit_spreads_over_the_training_split(task: DetectionTask):
    everything = task.train_set()
    task.config.data.limit = 3
    few = task.train_set()
    assert (len(everything), len(few), len(task.val_set())) == (5, 3, 3)
    assert few.indices == [0, 2, 4]
    assert few[1]["image"].shape == everything[2]["image"].shape


def test_the_students_weights_follow_from_the_seed(task: DetectionTask):
    first = task.student().state_dict()
    assert same(first, task.student().state_dict())
    task.config.seed = 8
    assert not same(first, task.student().state_dict())


def test_inputs_are_in_0_to_1(task: DetectionTask):
    batch = next(iter(task.val_loader(task.val_set())))
    images, targets = task.inputs(batch)
    assert all(image.dtype == torch.float32 and image.min() >= 0 and image.max() <= 1 for image in images)
    assert len(images) == len(targets) == 2


class TestARun:
    def test_what_it_leaves_behind(self, trained: Path):
        run = trained / "runs/distilled"
        result = json.loads((run / "result.json").read_text())
        assert (result["steps"], result["classes"]) == (4, ["RBC", "WBC", "Platelets"])
        for model in ("teacher", "student"):
            assert 0 <= result[model]["ap"] <= result[model]["ap50"] <= 1
            assert len(result[model]["class_ap"]) == 3
        printed = (trained / "printed.txt").read_text()
        assert printed.count("left out") == 0
        for text in ("AP ", "AP50 ", "  RBC", "teacher", "student"):
            assert text in printed
        header, *rows = (run / "metrics.csv").read_text().splitlines()
        assert header.startswith("step,seconds,val/ap,val/ap50")
        assert len(rows) == 2

    def test_boxes_that_are_left_out_are_counted(self, experiment: Path):
        file = next((experiment / "bccd/Annotations").glob("2007_*.xml"))
        text = file.read_text()
        file.write_text(re.sub(r"<xmax>(\d+)</xmax>", "<xmax>1</xmax>", text))
        outcome = train(experiment / "tiny.yaml", "trainer.max_steps=1")
        assert re.search(r"tiny: \d box(es)? of train left out: inverted", outcome.out), outcome.out

    def test_the_student_opens_and_finds_what_was_measured(self, trained: Path):
        student = load_student(trained / "runs/distilled")
        assert student.info["classes"] == ["RBC", "WBC", "Platelets"]
        state = weights(trained / "runs/distilled/checkpoints/best.ckpt")
        assert same(student.model.state_dict(), {k.removeprefix("distiller.student."): v for k, v in state.items()})
        found = student.predict(read_photo(next((trained / "bccd/JPEGImages").glob("*.jpg"))).pixels)
        assert len(found["boxes"]) == len(found["scores"])

    def test_eval_repeats_the_figures(self, trained: Path):
        result = json.loads((trained / "runs/distilled/result.json").read_text())
        outcome = segkd("eval", trained / "runs/distilled")
        assert outcome.status == 0, outcome.err
        line = next(line for line in outcome.out.splitlines() if line.startswith("AP50"))
        expected = [f"{100 * result[model]['ap50']:.2f}" for model in ("teacher", "student")]
        assert line.split()[1:] == expected

    def test_a_resumed_run_is_the_uninterrupted_one(self, trained: Path):
        with cut_at(3):
            assert segkd("train", trained / "distilled.yaml", "name=cut").status == 1
        train("--resume", trained / "runs/cut")
        for name in ("last", "best"):
            pair = [weights(trained / f"runs/{run}/checkpoints/{name}.ckpt") for run in ("cut", "distilled")]
            assert same(*pair), name
        assert measured(trained / "runs/cut") == measured(trained / "runs/distilled")

    def test_a_run_as_teacher_by_its_weights(self, trained: Path):
        options = ["teacher.config=null", "teacher.arch=gfl", "teacher.backbone=tu-test_resnet", "name=by_weights"]
        checkpoint = f"teacher.checkpoint={trained / 'runs/teacher'}"
        width = "teacher.options.out_channels=64"
        train(trained / "distilled.yaml", *options, checkpoint, width, "trainer.max_steps=1")


class TestInherit:
    def test_atss_under_crosskd_starts_from_the_teachers_neck_and_head(self, experiment: Path):
        train(experiment / "teacher.yaml", "student.arch=atss", "trainer.max_steps=1")
        options = ["student.arch=atss", "distill.terms.box.weight=1"]
        options += ["teacher.overrides.student.arch=atss", "teacher.overrides.trainer.max_steps=1"]
        # The student hardly moves, so that its start is still seen.
        options += ["student.inherit=true", "trainer.max_steps=2", "validation.every=1", "optimizer.lr=1e-9"]
        with cut_at(1):
            outcome = segkd("train", experiment / "distilled.yaml", *options)
        assert re.search(r"the student's neck and head start from the teacher's weights: \d+ tensors", outcome.out)
        assert "start from" not in train("--resume", experiment / "runs/distilled").out
        student, teacher = (load_student(experiment / "runs" / name).module for name in ("distilled", "teacher"))
        backbone = []
        for name, tensor in student.state_dict().items():
            if name.startswith("backbone.body."):
                backbone.append(torch.equal(tensor, teacher.state_dict()[name]))
            else:
                torch.testing.assert_close(tensor, teacher.state_dict()[name], rtol=0, atol=1e-6)
        assert not all(backbone)
        assert segkd("eval", experiment / "runs/distilled").status == 0


class TestSettings:
    def test_images_of_several_sizes_in_a_batch(self, experiment: Path):
        for path in sorted((experiment / "bccd/JPEGImages").glob("*.jpg"))[::2]:
            Image.open(path).resize((71, 45)).save(path)
            trees.write_voc(
                experiment / f"bccd/Annotations/{path.stem}.xml", (45, 71), [("RBC", (5, 5, 30, 30), False)]
            )
        train(experiment / "tiny.yaml", "trainer.max_steps=1", "validation.batch_size=3", "data.batch_size=5")

    @pytest.mark.parametrize(
        "options",
        [
            ["trainer.precision=bf16-mixed"],
            ["trainer.accumulate=2", "data.limit=3"],
            ["data.workers=1", "data.min_size=[48,64]", "data.crop=[48,80]", "data.scale=[0.5,2]", "data.blur=1"],
            [
                "optimizer.bias_lr_factor=2",
                "optimizer.bias_weight_decay=0",
                "data.min_size=[48,64]",
                "data.min_size_sampling=range",
                "student.norm=eval",
                "distill.task_weight=0.5",
            ],
        ],
        ids=lambda options: options[0],
    )
    def test_a_distilled_step(self, trained: Path, options: list[str]):
        name = f"settings_{options[0]}".replace("=", "_")
        train(trained / "distilled.yaml", f"name={name}", "trainer.max_steps=1", *options)
        first, expected = (
            next(csv.DictReader((trained / f"runs/{run}/metrics.csv").open())) for run in (name, "distilled")
        )
        assert first["step"] == "1"
        assert first.keys() == expected.keys()
        state = weights(trained / f"runs/{name}/checkpoints/last.ckpt")
        assert all(value.isfinite().all() for value in state.values())

    def test_a_student_without_its_run_is_measured_alike(self, trained: Path, tmp_path: Path):
        shutil.copytree(trained / "runs/distilled/student", tmp_path / "alone")
        recorded = json.loads((trained / "runs/distilled/result.json").read_text())["student"]
        figures, dataset = tmp_path / "figures.json", trained / "bccd/bccd.yaml"
        assert segkd("eval", tmp_path / "alone", f"data.dataset={dataset}", "--json", figures).status == 0
        measured = json.loads(figures.read_text())["student"]
        assert measured == {key: value for key, value in recorded.items() if key != "step"}

    @pytest.mark.slow
    def test_two_processes(self, experiment: Path):
        ddp = ["accelerator=cpu", "devices=2", "strategy=ddp"]
        options = [f"{prefix}trainer.{option}" for option in ddp for prefix in ("", "teacher.overrides.")]
        # One image each, the last of the split without boxes.
        command = [sys.executable, "-m", "segkd.cli", "train", str(experiment / "distilled.yaml"), *options]
        done = subprocess.run([*command, "data.batch_size=1"], capture_output=True, text=True, timeout=300)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("AP50") == 1
        assert {path.name for path in (experiment / "runs").iterdir()} == {"distilled", "teacher"}
        recorded = json.loads((experiment / "runs/distilled/result.json").read_text())
        measured = evaluate(str(experiment / "runs/distilled"), [])
        for model in ("teacher", "student"):
            for key in ("ap", "ap50", "ap75"):
                assert recorded[model][key] == pytest.approx(measured[model][key], abs=1e-6)

    @pytest.mark.slow
    def test_compiled(self, trained: Path, monkeypatch: pytest.MonkeyPatch):
        # All but the generated code, which takes minutes to build and is not ours.
        monkeypatch.setattr(Distiller, "compile", lambda self: nn.Module.compile(self, backend="aot_eager"))
        options = ["trainer.max_steps=1", "optimizer.name=sgd", "validation.pictures=0"]
        train(trained / "distilled.yaml", "name=compiled", "trainer.compile=true", *options)
        train(trained / "distilled.yaml", "name=eager", *options)
        compiled, eager = (weights(trained / f"runs/{name}/checkpoints/last.ckpt") for name in ("compiled", "eager"))
        assert compiled.keys() == eager.keys()
        for name, value in compiled.items():
            torch.testing.assert_close(value, eager[name], rtol=1e-3, atol=1e-5, msg=name)


class TestRefused:
    def test_terms_that_do_not_fit(self, trained: Path):
        train_it = ("train", trained / "distilled.yaml", "name=x")
        refused(segkd(*train_it, "distill.terms.class.index=7"), "index", "7")
        refused(segkd(*train_it, "student.arch=fcos"), "distill", "gfl", "fcos")
        refused(segkd(*train_it, "distill.terms.class.loss=crosskd_clas"), "did you mean 'crosskd_class'?")
        refused(segkd(*train_it, "distill.pixel_weighting.rdd.switch=0"), "distill.pixel_weighting")
        assert not (trained / "runs/x").exists()

    def test_keys_and_names(self, trained: Path):
        tiny = ("train", trained / "tiny.yaml", "name=x")
        refused(segkd(*tiny, "student.arch=gfi"), "'gfi'", "did you mean 'gfl'?")
        refused(segkd(*tiny, "student.encoder=resnet18"), "there is no key 'student.encoder'")
        refused(segkd(*tiny, "task=detectoin"), "did you mean 'detection'?")
        refused(segkd(*tiny, "data.scale=[2,1]"), "data.scale", "smallest")
        refused(segkd(*tiny, "data.dataset=bcd"), "did you mean 'bccd'?")
        assert not (trained / "runs/x").exists()

    def test_a_teacher_of_another_task(self, trained: Path, tmp_path: Path):
        other = make_experiment(tmp_path)
        outcome = segkd("train", trained / "distilled.yaml", f"teacher.config={other / 'teacher.yaml'}", "name=x")
        refused(outcome, "is no detection config")

    def test_a_teacher_of_other_classes(self, experiment: Path):
        task = DetectionTask(load_config(str(experiment / "distilled.yaml")))
        own = task.config.model_copy(deep=True)
        own.data.dataset = "coco"
        with pytest.raises(SegkdError, match=r"has 80 classes \[person, .* the student 3 \[RBC, WBC, Platelets\]"):
            TeacherOf(task, "teacher", own)


def test_check_and_show(trained: Path, tmp_path: Path):
    outcome = segkd("data", "check", trained / "tiny.yaml")
    assert outcome.status == 0
    assert "RBC" in outcome.out
    outcome = segkd("data", "show", trained / "tiny.yaml", "--out", tmp_path / "a.png", "--count", 2)
    assert outcome.status == 0, outcome.err
    assert (tmp_path / "a.png").stat().st_size > 1000
