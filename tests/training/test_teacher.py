import json
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from experiments import (
    expect_same,
    locked_by_a_child,
    make_experiment,
    printed_until,
    refused,
    same,
    segkd,
    start,
    train,
    write,
)
from safetensors.torch import load_file

from segkd.models.auxiliary import WithAuxiliary
from segkd.training.config import load_config
from segkd.training.tasks import task_of
from segkd.training.teacher import TeacherOf

FIT = ["teacher.auxiliary=fit", "teacher.auxiliary_fit.steps=4", "distill.pixel_weighting.rdd.switch=0.5"]


class TestFromWeights:
    OPTIONS = ("teacher.config=null", "teacher.arch=DeepLabV3Plus", "teacher.encoder=tu-test_resnet")

    @pytest.mark.parametrize(
        "weights", ["", "student", "student/model.safetensors", "checkpoints/best.ckpt"], ids=lambda path: path or "run"
    )
    def test_a_run_or_any_file_of_it(self, trained: Path, weights: str):
        checkpoint = f"teacher.checkpoint={trained / 'runs/teacher' / weights}"
        name = f"name=taught_by_{Path(weights).stem or 'run'}"
        train(trained / "distilled.yaml", *self.OPTIONS, checkpoint, name, "trainer.max_steps=1")

    @pytest.mark.parametrize("weights", ["", "student", "student/model.safetensors"], ids=lambda path: path or "run")
    def test_a_run_says_itself_what_its_weights_are_of(self, trained: Path, weights: str):
        mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
        big = trained / "runs/big"
        if not big.exists():
            own = ["name=big", f"student.normalization={{mean: {mean}, std: {std}}}", "student.auxiliary=true"]
            options = "student.options={decoder_channels: 32}"
            train(trained / "tiny.yaml", *own, options, "trainer.max_steps=1")
        config = load_config(str(trained / "distilled.yaml"), [f"teacher.checkpoint={big / weights}"])
        teacher = TeacherOf(task_of(config), "teacher", None)
        seen, module = teacher.network.preprocess, teacher.network.module
        assert (seen.mean, seen.std) == (tuple(mean), tuple(std))
        assert isinstance(module, WithAuxiliary)  # so it can teach by RDD
        assert module.model.config["decoder_channels"] == 32
        teacher.load()
        assert not teacher.lacks_head
        wanted = load_file(big / "student/model.safetensors")
        assert same(module.model.state_dict(), wanted)

    @pytest.mark.parametrize(
        ("said", "texts"),
        [
            ("teacher.encoder=resnet18", ["teacher.encoder", "'tu-test_resnet'", "'resnet18'"]),
            ("teacher.options.decoder_channels=17", ["teacher.options.decoder_channels", "17"]),
            ("teacher.normalization={mean: [0, 0, 0], std: [1, 1, 1]}", ["teacher.normalization", "[0.5, 0.5"]),
        ],
    )
    def test_what_contradicts_the_run(self, trained: Path, said: str, texts: list[str]):
        checkpoint = f"teacher.checkpoint={trained / 'runs/teacher'}"
        refused(segkd("train", trained / "distilled.yaml", checkpoint, said, "name=x"), *texts, "leave")

    def test_of_classes_in_another_order(self, trained: Path):
        content = yaml.safe_load((trained / "camvid/camvid.yaml").read_text())
        content["classes"] = [content["classes"][1], content["classes"][0], *content["classes"][2:]]
        turned = write(trained / "camvid/turned.yaml", content)
        options = [f"data.dataset={turned}", f"teacher.checkpoint={trained / 'runs/teacher'}"]
        outcome = train(trained / "distilled.yaml", *options, "name=by_name", "trainer.max_steps=1")
        assert "by_name: the classes of the teacher " in outcome.out
        assert "by_name:   sky -> sky\nby_name:   building -> building\n" in outcome.out
        swapped = "teacher.class_map=[1,0,2,3,4,5,6,7,8,9,10]"
        train(trained / "distilled.yaml", *options, swapped, "name=turned", "trainer.max_steps=1")
        results = [json.loads((trained / f"runs/{name}/result.json").read_text()) for name in ("by_name", "turned")]
        assert results[0]["teacher"] == results[1]["teacher"]
        assert results[0]["student"] == results[1]["student"]

    def test_the_config_that_a_run_keeps_names_that_run(self, trained: Path):
        kept = trained / "runs/teacher/config.yaml"
        elsewhere = [f"runs={trained / 'elsewhere'}", f"teacher.config={kept}", "name=by_config"]
        outcome = train(trained / "distilled.yaml", *elsewhere, "trainer.max_steps=1")
        assert "trained first" not in outcome.out
        assert [path.name for path in (trained / "elsewhere").iterdir()] == ["by_config"]

    def test_weights_alone_need_an_architecture(self, trained: Path):
        checkpoint = f"teacher.checkpoint={trained / 'runs/teacher/checkpoints/best.ckpt'}"
        outcome = segkd("train", trained / "distilled.yaml", checkpoint, "name=x")
        refused(outcome, "teacher.arch is missing", "best.ckpt", "a run directory")

    def test_of_another_architecture(self, trained: Path):
        checkpoint = f"teacher.checkpoint={trained / 'runs/teacher'}"
        outcome = segkd("train", trained / "distilled.yaml", *self.OPTIONS, checkpoint, "teacher.arch=Unet", "name=x")
        refused(outcome, "x: teacher.arch: ", "runs/teacher", "'DeepLabV3Plus'", "'Unet'")
        assert not (trained / "runs/x").exists()

    def test_of_another_number_of_classes(self, trained: Path, tmp_path: Path):
        content = yaml.safe_load((trained / "camvid/camvid.yaml").read_text())
        content["classes"] = content["classes"][:-1]
        content["label_map"] = {raw: raw if raw < 10 else "ignore" for raw in range(12)}
        few = write(trained / "camvid/few.yaml", content)
        options = [f"data.dataset={few}", f"teacher.checkpoint={trained / 'runs/teacher'}", "name=x"]
        outcome = segkd("train", trained / "distilled.yaml", *self.OPTIONS, *options)
        refused(outcome, "runs/teacher has 11 classes, the student 10 [sky, ", "teacher.class_map: {bicyclist: null}")
        assert not (trained / "runs/x").exists()

    def test_with_a_class_map(self, trained: Path):
        content = yaml.safe_load((trained / "camvid/camvid.yaml").read_text())
        content["classes"] = content["classes"][:10]
        content["label_map"] = {raw: raw if raw < 10 else "ignore" for raw in range(12)}
        few = write(trained / "camvid/few.yaml", content)
        class_map = f"teacher.class_map=[{','.join(map(str, range(10)))},null]"
        train(trained / "distilled.yaml", f"data.dataset={few}", "name=mapped", class_map, "trainer.max_steps=1")
        lacking = "teacher.class_map=[0,1,2,3,4,5,6,7,8,null,null]"
        options = [f"data.dataset={few}", "name=part", lacking, "trainer.max_steps=1"]
        told = (
            "teacher.class_map names no class of the teacher for pedestrian: where it lacks classes say teacher.partial"
        )
        refused(segkd("train", trained / "distilled.yaml", *options), told)
        for number, place in ((3, 10), (0, -1)):
            wrong = [str(number if k != number else place) for k in range(10)]
            outcome = segkd(
                "train", trained / "distilled.yaml", *options[:2], f"teacher.class_map=[{','.join(wrong)},null]"
            )
            refused(outcome, f"teacher.class_map.{number}: the student's classes are 0 to 9, got {place}")
        options += ["teacher.partial=true"]
        refused(segkd("train", trained / "distilled.yaml", *options), "lacks the classes [9]; PixelKD(known=0.5)")
        options += ["distill.schedule=null", "distill.terms={icsd: null, kd: {loss: pixel_kd, known: 0.5}}"]
        outcome = train(trained / "distilled.yaml", *options)
        assert "lacks pedestrian: the terms leave these classes out" in outcome.out + outcome.err

    def test_corrupt(self, trained: Path, tmp_path: Path):
        for name, content in (("a.safetensors", b"x" * 99), ("b.ckpt", b"PK\x03\x04"), ("c.txt", b"")):
            (tmp_path / name).write_bytes(content)
            checkpoint = f"teacher.checkpoint={tmp_path / name}"
            outcome = segkd("train", trained / "distilled.yaml", *self.OPTIONS, checkpoint, "name=x")
            refused(outcome, str(tmp_path / name))
        missing = f"teacher.checkpoint={tmp_path / 'none.pth'}"
        refused(segkd("train", trained / "distilled.yaml", *self.OPTIONS, missing, "name=x"), "none.pth: no such file")

    def test_a_pickle_is_never_run(self, trained: Path, tmp_path: Path):
        class Evil:
            def __reduce__(self):
                return (Path.touch, (tmp_path / "ran",))

        torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
        checkpoint = f"teacher.checkpoint={tmp_path / 'evil.pth'}"
        refused(segkd("train", trained / "distilled.yaml", *self.OPTIONS, checkpoint, "name=x"), "evil.pth")
        assert not (tmp_path / "ran").exists()


def test_a_teacher_that_another_process_trains_is_waited_for(experiment: Path):
    directory = experiment / "runs/teacher"
    directory.mkdir(parents=True)
    waits = f"distilled: another process trains the teacher teacher ({directory}): waiting for it\n"
    with locked_by_a_child(directory / ".lock") as child:

        def kill_when_waited_for() -> None:
            while waits not in getattr(sys.stdout, "getvalue", str)():
                time.sleep(0.05)
            child.kill()

        threading.Thread(target=kill_when_waited_for, daemon=True).start()
        outcome = train(experiment / "distilled.yaml", "trainer.max_steps=1")
    assert waits + "distilled: the teacher teacher is trained first" in outcome.out


@pytest.mark.slow
class TestTwoStudentsAtOnce:
    def test_one_trains_the_teacher_of_both(self, experiment: Path, tmp_path_factory: pytest.TempPathFactory):
        students = [("name=one",), ("name=two", "seed=2")]
        both = [start("train", experiment / "distilled.yaml", *student) for student in students]
        printed = [process.communicate(timeout=600)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], printed
        assert "".join(printed).count("the teacher teacher is trained first") == 1
        assert "".join(printed).count("teacher: step 4/4") == 1
        reference = make_experiment(tmp_path_factory.mktemp("one_after_the_other"))
        for student in students:
            train(reference / "distilled.yaml", *student)
        for name in ("teacher", "one", "two"):
            expect_same(experiment / "runs" / name, reference / "runs" / name)

    def test_the_teacher_of_one_that_is_killed_is_taken_over(self, experiment: Path):
        longer = ["teacher.overrides.trainer.max_steps=200", "teacher.overrides.validation.every=100"]
        longer += ["teacher.overrides.trainer.checkpoint_every=1", "teacher.overrides.data.workers=1"]
        first = start("train", experiment / "distilled.yaml", "name=one", *longer)
        while not (experiment / "runs/teacher/checkpoints/last.ckpt").is_file():
            assert first.poll() is None
            time.sleep(0.05)
        second = start("train", experiment / "distilled.yaml", "name=two", *longer)
        printed_until(second, "two: another process trains the teacher teacher")
        first.kill()
        printed = second.communicate(timeout=500)[0]
        assert second.returncode == 0, printed
        assert printed.startswith("two: the teacher teacher is resumed\n")
        assert (experiment / "runs/two/result.json").is_file()
        assert not (experiment / "runs/one").exists()
