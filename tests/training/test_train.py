import json
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from experiments import recorded_steps, refused, rows, same, segkd, train, weights, write
from PIL import Image

from segkd.data.description import read_spec
from segkd.models.saved import load_student
from segkd.segmentation.metrics import SegmentationMetrics


class TestRunDirectory:
    def test_holds_everything(self, trained: Path):
        run = trained / "runs" / "distilled"
        found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
        events = {name for name in found if name.startswith("events.out")}
        assert len(events) == 1
        assert found - events == {
            "config.yaml",
            ".lock",
            "metrics.csv",
            "result.json",
            "checkpoints/best.ckpt",
            "checkpoints/last.ckpt",
            "checkpoints/previous.ckpt",
            "student/config.json",
            "student/model.safetensors",
        }

    def test_checkpoints_unpickle_nothing(self, trained: Path):
        for name in ("best", "last"):
            content = torch.load(trained / "runs/distilled/checkpoints" / f"{name}.ckpt", weights_only=True)
            assert content["global_step"] in (2, 4)
            assert not any("teacher" in key for key in content["state_dict"])

    def test_the_config_in_it_repeats_the_run(self, trained: Path):
        again = train(trained / "runs/distilled/config.yaml", "name=again")
        assert same(
            weights(trained / "runs/distilled/checkpoints/last.ckpt"),
            weights(trained / "runs/again/checkpoints/last.ckpt"),
        )
        assert "trained first" not in again.out

    def test_metrics_have_a_row_for_each_validation(self, trained: Path):
        run = trained / "runs" / "distilled"
        assert [row["step"] for row in rows(run)] == ["2", "4"]
        assert list(rows(run)[0])[:5] == ["step", "seconds", "val/miou", "val/pixel_accuracy", "val/class_accuracy"]
        last = json.loads((run / "result.json").read_text())["last"]
        assert float(rows(run)[-1]["val/miou"]) == pytest.approx(last["miou"], abs=1e-6)
        assert float(rows(run)[-1]["iou/sky"]) == pytest.approx(last["iou"][0], abs=1e-6)

    def test_the_student_opens_and_reaches_what_is_recorded(self, trained: Path):
        run = trained / "runs" / "distilled"
        student = load_student(run)
        spec = read_spec(trained / "camvid" / "camvid.yaml")
        metrics = SegmentationMetrics(spec.num_classes, spec.ignore_index)
        samples = spec.samples("val")
        for image, mask in map(samples.read, range(len(samples))):
            predicted = torch.from_numpy(student.predict(image)).long()
            metrics.update(predicted[None], torch.from_numpy(mask.astype(np.int64))[None])
        recorded = json.loads((run / "result.json").read_text())["student"]
        assert metrics.compute()["miou"] == pytest.approx(recorded["miou"], abs=1e-9)
        assert student.info["classes"] == spec.class_names

        plain = smp.from_pretrained(run / "student").eval()
        image = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            assert torch.equal(plain(image), student.module(image))

    def test_the_student_is_the_best_validation(self, trained: Path):
        run = trained / "runs" / "distilled"
        best = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
        result = json.loads((run / "result.json").read_text())
        assert result["student"]["step"] == best["global_step"]
        assert result["student"]["miou"] == max(result["student"]["miou"], result["last"]["miou"])
        state = load_student(run).model.state_dict()
        assert same(state, {k.removeprefix("distiller.student."): v for k, v in best["state_dict"].items()})

    def test_what_is_printed(self, trained: Path):
        printed = (trained / "printed.txt").read_text()
        assert "distilled: the teacher teacher is trained first: there is no finished run of it" in printed
        assert "distilled: step 4/4  loss " in printed
        assert "images/s" in printed
        for text in ("mIoU", "pixel accuracy", "bicyclist", "teacher", "student"):
            assert text in printed
        # A path is never broken over lines, however long it is.
        assert f"tensorboard --logdir {trained / 'runs' / 'distilled'}\n" in printed

    def test_a_run_validates_its_last_step(self, experiment: Path):
        train(experiment / "tiny.yaml", "trainer.max_steps=3")
        assert [row["step"] for row in rows(experiment / "runs/tiny")] == ["2", "3"]
        last = torch.load(experiment / "runs/tiny/checkpoints/last.ckpt", weights_only=True)
        assert last["global_step"] == 3


class TestFairness:
    def test_the_baseline_starts_from_the_same_weights_and_sees_the_same(self, trained: Path):
        with recorded_steps() as plain:
            train(trained / "tiny.yaml", "name=fair_plain", "trainer.max_steps=2")
        with recorded_steps() as distilled:
            train(trained / "distilled.yaml", "name=fair_distilled", "trainer.max_steps=2")
        assert len(plain) == len(distilled) == 2
        assert same(plain[0]["student"], distilled[0]["student"])
        assert not same(plain[1]["student"], distilled[1]["student"])
        for left, right in zip(plain, distilled, strict=True):
            assert torch.equal(left["image"], right["image"])
            assert torch.equal(left["mask"], right["mask"])

    def test_another_seed_is_another_run(self, experiment: Path):
        with recorded_steps() as first:
            train(experiment / "tiny.yaml", "trainer.max_steps=1")
        with recorded_steps() as second:
            train(experiment / "tiny.yaml", "trainer.max_steps=1", "seed=5", "name=other")
        assert not same(first[0]["student"], second[0]["student"])
        assert not torch.equal(first[0]["image"], second[0]["image"])

    def test_worker_processes_change_nothing(self, experiment: Path):
        train(experiment / "tiny.yaml", "name=none")
        train(experiment / "tiny.yaml", "name=one", "data.workers=1")
        runs = experiment / "runs"
        assert same(weights(runs / "none/checkpoints/last.ckpt"), weights(runs / "one/checkpoints/last.ckpt"))


class TestOptions:
    def test_accumulation_takes_as_many_batches_for_each_step(self, experiment: Path):
        with recorded_steps() as steps:
            train(experiment / "tiny.yaml", "trainer.accumulate=3", "trainer.max_steps=2")
        assert len(steps) == 6
        assert same(
            {k: v for k, v in steps[0]["student"].items() if k.endswith("weight") and v.ndim == 4},
            {k: v for k, v in steps[2]["student"].items() if k.endswith("weight") and v.ndim == 4},
        )
        key = "segmentation_head.0.weight"
        assert not torch.equal(steps[2]["student"][key], steps[3]["student"][key])
        assert [row["step"] for row in rows(experiment / "runs/tiny")] == ["2"]

    @pytest.mark.parametrize(
        "overrides",
        [
            ["optimizer.name=sgd", "trainer.gradient_clip=0.1"],
            ["trainer.precision=bf16-mixed"],
            ["optimizer.schedule=onecycle", "optimizer.encoder_lr=0.0001"],
            ["validation.mode=sliding", "validation.window=[32,48]", "validation.stride=[32,32]"],
            ["validation.resize=[32,48]"],
            ["student.auxiliary=true"],
            ["data.resize=[48,64]", "data.crop=[32,32]", "data.color_jitter=0.2"],
        ],
        ids=lambda overrides: overrides[0],
    )
    def test_runs_to_the_end(self, experiment: Path, overrides: list[str]):
        train(experiment / "tiny.yaml", "trainer.max_steps=2", *overrides)
        result = json.loads((experiment / "runs/tiny/result.json").read_text())
        assert np.isfinite(result["last"]["miou"])

    def test_sliding_windows_are_what_is_measured(self, experiment: Path):
        sliding = ["validation.mode=sliding", "validation.window=[32,48]"]
        # Which after two steps predicts more than one class.
        options = ["trainer.max_steps=2", "student.encoder=tu-mobilenetv3_small_050"]
        train(experiment / "tiny.yaml", "name=whole", *options)
        train(experiment / "tiny.yaml", "name=sliding", *options, *sliding)
        whole, windows = (
            json.loads((experiment / f"runs/{name}/result.json").read_text())["last"] for name in ("whole", "sliding")
        )
        assert whole["pixel_accuracy"] != windows["pixel_accuracy"]

    def test_images_of_several_sizes(self, experiment: Path):
        val = experiment / "camvid"
        for folder, mode in (("val", "RGB"), ("valannot", "L")):
            path = val / folder / "0001TP_000001.png"
            Image.open(path).convert(mode).resize((71, 45), Image.Resampling.NEAREST).save(path)
        refused(segkd("train", experiment / "tiny.yaml"), "validation.batch_size=1")
        train(experiment / "tiny.yaml", "name=single", "validation.batch_size=1")

    def test_takes_a_student_to_start_from(self, trained: Path):
        with recorded_steps() as steps:
            start = trained / "runs" / "distilled"
            train(trained / "tiny.yaml", "name=from_student", "trainer.max_steps=1", f"student.checkpoint={start}")
        assert same(steps[0]["student"], load_student(start).model.state_dict())

    def test_an_unlabelled_validation_split_ends_in_dashes(self, experiment: Path):
        for path in (experiment / "camvid" / "valannot").iterdir():
            Image.fromarray(np.full((64, 96), 11, np.uint8)).save(path)
        outcome = train(experiment / "tiny.yaml")
        assert "nan" not in outcome.out
        assert next(line for line in outcome.out.splitlines() if "bicyclist" in line).split()[-1] == "-"
        assert json.loads((experiment / "runs/tiny/result.json").read_text())["student"]["miou"] is None

    def test_a_batch_too_small_for_batch_norm(self, experiment: Path):
        refused(segkd("train", experiment / "tiny.yaml", "data.batch_size=1"), "data.batch_size", "2 images")


class TestNotFinite:
    def test_names_the_term_and_keeps_earlier_checkpoints(self, trained: Path):
        outcome = segkd(
            "train",
            trained / "distilled.yaml",
            "name=exploding",
            "optimizer.name=sgd",
            "optimizer.lr=1e30",
            "trainer.log_every=50",
            "trainer.checkpoint_every=1",
            "trainer.max_steps=20",
            "validation.every=20",
        )
        refused(outcome, "step 2: the term ", "'task'", "is not finite", "learning rate")
        last = trained / "runs/exploding/checkpoints/last.ckpt"
        assert not last.is_file() or torch.load(last, weights_only=True)["global_step"] < 2
        assert not (trained / "runs/exploding/student").exists()

    def test_names_the_one_term_that_overflows_under_its_weight(self, trained: Path):
        outcome = segkd("train", trained / "distilled.yaml", "name=heavy", "distill.terms.icsd.weight=1e39",
                        "distill.schedule=null")  # fmt: skip
        refused(outcome, "step 1: the term 'icsd' is not finite")


class TestTeacher:
    def test_is_used_again_once_it_is_finished(self, trained: Path):
        before = (trained / "runs/teacher/checkpoints/last.ckpt").stat().st_mtime_ns
        outcome = train(trained / "distilled.yaml", "name=second", "trainer.max_steps=1")
        assert "trained first" not in outcome.out
        assert (trained / "runs/teacher/checkpoints/last.ckpt").stat().st_mtime_ns == before

    def test_its_measure_is_that_of_its_own_run(self, trained: Path):
        of_student, of_teacher = (
            json.loads((trained / f"runs/{name}/result.json").read_text()) for name in ("distilled", "teacher")
        )
        assert of_student["teacher"]["miou"] == pytest.approx(of_teacher["student"]["miou"], abs=1e-9)

    def test_of_another_config_is_refused(self, experiment: Path):
        train(experiment / "teacher.yaml")
        before = (experiment / "runs/teacher/config.yaml").read_text()
        write(experiment / "teacher.yaml", {"base": "tiny.yaml", "name": "teacher", "seed": 2})
        refused(segkd("train", experiment / "distilled.yaml"), "runs/teacher", "another seed", "teacher.overrides.name")
        assert (experiment / "runs/teacher/config.yaml").read_text() == before
        assert not (experiment / "runs/distilled").exists()

    def test_overrides_give_it_another_name(self, experiment: Path):
        changes = ["teacher.overrides.name=short", "teacher.overrides.trainer.max_steps=1", "trainer.max_steps=1"]
        train(experiment / "distilled.yaml", *changes)
        config = yaml.safe_load((experiment / "runs/short/config.yaml").read_text())
        assert config["trainer"]["max_steps"] == 1

    def test_what_does_not_fit_is_found_before_it_is_trained(self, experiment: Path):
        outcome = segkd("train", experiment / "distilled.yaml", "distill.terms.kd.student=encoder.modle")
        refused(outcome, "distilled: distill:", "'encoder.modle'", "did you mean 'encoder.model'?")
        assert not (experiment / "runs").exists()
