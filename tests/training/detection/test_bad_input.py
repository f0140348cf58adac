"""Data and settings that do not fit: a run trains all the same, or ends with one line before anything is written."""

import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
import trees
from experiments import refused, segkd, train, weights

from segkd.detection.models import build_detector

ONE_STEP = ["trainer.max_steps=1", "validation.pictures=0", "teacher.overrides.trainer.max_steps=1"]
SHORT = ONE_STEP[:2]
PKD_ALONE = ["distill.terms.class=null", "distill.terms.box=null"]
TRAIN, VAL = "2007", "2008"


def annotate(experiment: Path, split: str, *objects: tuple[str, tuple[float, ...]]) -> None:
    """Give all images of a split these objects and no others."""
    for path in (experiment / "bccd/Annotations").glob(f"{split}_*.xml"):
        trees.write_voc(path, trees.SIZE, [(name, corners, False) for name, corners in objects])


def file(experiment: Path, split: str, kind: str = "Annotations/*.xml") -> Path:
    folder, name = kind.split("/")
    return sorted((experiment / "bccd" / folder).glob(f"{split}_{name}"))[1]


def assert_finite(run: Path) -> None:
    for name, value in weights(run / "checkpoints/last.ckpt").items():
        assert value.isfinite().all(), name


class TestBoxes:
    @pytest.mark.parametrize("arch", ["retinanet", "fcos", "gfl", "faster_rcnn"])
    def test_none_in_any_training_image(self, experiment: Path, arch: str):
        annotate(experiment, TRAIN)
        train(experiment / "tiny.yaml", *SHORT, f"student.arch={arch}")
        assert_finite(experiment / "runs/tiny")

    def test_none_for_a_distilled_student(self, experiment: Path):
        annotate(experiment, TRAIN)
        train(experiment / "distilled.yaml", *ONE_STEP)
        assert_finite(experiment / "runs/distilled")

    def test_none_in_any_validation_image(self, experiment: Path):
        annotate(experiment, VAL)
        outcome = train(experiment / "tiny.yaml", *SHORT)
        assert "step 1/1" in outcome.out
        assert "nan" not in outcome.out
        assert re.search(r"^AP +-$", outcome.out, re.MULTILINE), outcome.out

    def test_those_that_are_none_are_left_out_and_counted(self, experiment: Path):
        whole = ("WBC", (10, 10, 60, 50))
        beyond, zero, inverted = ("RBC", (97, 1, 120, 30)), ("RBC", (9, 9, 9, 30)), ("RBC", (30, 9, 20, 30))
        annotate(experiment, TRAIN, whole, beyond, beyond, zero, ("RBC", (-40, -40, 500, 500)))
        annotate(experiment, VAL, whole, inverted)
        outcome = train(experiment / "tiny.yaml", *SHORT)
        remarks = [line for line in outcome.out.splitlines() if "left out" in line]
        assert remarks == [
            "tiny: 5 boxes of train left out: zero area",
            "tiny: 10 boxes of train left out: outside the image",
            "tiny: 3 boxes of val left out: inverted",
        ]
        assert_finite(experiment / "runs/tiny")

    def test_of_an_unknown_class(self, experiment: Path):
        path = file(experiment, VAL)
        trees.write_voc(path, trees.SIZE, [("RBCs", (1, 1, 20, 20), False)])
        refused(segkd("train", experiment / "tiny.yaml"), str(path), "'RBCs'", "did you mean 'RBC'?")
        assert not (experiment / "runs").exists()


class TestFiles:
    @pytest.mark.parametrize("split", [TRAIN, VAL])
    @pytest.mark.parametrize("kind", ["Annotations/*.xml", "JPEGImages/*.jpg"])
    def test_listed_but_absent(self, experiment: Path, split: str, kind: str):
        path = file(experiment, split, kind)
        path.unlink()
        refused(segkd("train", experiment / "tiny.yaml"), f"no {'image' if path.suffix == '.jpg' else 'annotation'}")
        assert not (experiment / "runs").exists()

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_truncated_image_is_named_and_once_it_is_mended_the_run_goes_on(self, experiment: Path, workers: int):
        path = file(experiment, TRAIN, "JPEGImages/*.jpg")
        whole = path.read_bytes()
        path.write_bytes(whole[:-300])
        refused(segkd("data", "check", experiment / "tiny.yaml"), "1 problem(s) in data set")
        # Three steps of two images: all five are read.
        options = ("trainer.max_steps=3", f"data.workers={workers}", "validation.pictures=0")
        refused(segkd("train", experiment / "tiny.yaml", *options), f"cannot read image {path}: ")
        assert not (experiment / "runs/tiny/student").exists()
        path.write_bytes(whole)
        train("--resume", experiment / "runs/tiny")

    def test_no_masks_for_mask_rcnn(self, experiment: Path):
        says = "data set 'bccd' has format 'voc', which has no masks, as Mask R-CNN needs"
        refused(segkd("train", experiment / "tiny.yaml", "student.arch=mask_rcnn"), says)
        teacher = ["teacher.overrides.student.arch=mask_rcnn", "teacher.overrides.student.options.out_channels=64"]
        refused(segkd("train", experiment / "distilled.yaml", *PKD_ALONE, *teacher), says)
        assert not (experiment / "runs").exists()


class TestPairs:
    @pytest.mark.parametrize("arch", ["fcos", "gfl"])  # RetinaNet is in a shipped config
    def test_mask_rcnn_by_its_weights_teaches_data_without_masks(self, experiment: Path, arch: str):
        torch.manual_seed(0)
        teacher = build_detector("mask_rcnn", "mobilenet_v2", 3, options={"out_channels": 64})
        safetensors.torch.save_model(teacher, str(experiment / "mask.safetensors"))
        options = [
            "teacher.config=null",
            "teacher.arch=mask_rcnn",
            "teacher.backbone=mobilenet_v2",
            "teacher.options.out_channels=64",
            f"teacher.checkpoint={experiment / 'mask.safetensors'}",
        ]
        student = [f"student.arch={arch}", "student.options.out_channels=64"]
        train(experiment / "distilled.yaml", *SHORT, *PKD_ALONE, *options, *student)
        assert_finite(experiment / "runs/distilled")

    def test_a_two_stage_student_learns_maps_but_no_head(self, experiment: Path):
        two_stage = [*ONE_STEP, "student.arch=faster_rcnn", "student.options.out_channels=64"]
        refused(
            segkd("train", experiment / "distilled.yaml", *two_stage),
            "reads 'head', which the student, a two-stage detector, has not",
        )
        assert not (experiment / "runs").exists()
        train(experiment / "distilled.yaml", *two_stage, *PKD_ALONE)
        assert_finite(experiment / "runs/distilled")

    def test_anchors_of_another_assigner(self, experiment: Path):
        retinanet = [*ONE_STEP, "student.arch=retinanet", "teacher.overrides.student.arch=retinanet"]
        atss = "student.options.assigner=atss"
        refused(
            segkd("train", experiment / "distilled.yaml", *retinanet, atss),
            "needs heads of the same anchors per cell, the student's has 1, the teacher's 9",
        )
        assert not (experiment / "runs").exists()
        train(experiment / "distilled.yaml", *retinanet, atss, f"teacher.overrides.{atss}")
        assert_finite(experiment / "runs/distilled")

    def test_the_hints_for_other_channels_lead_to_a_run(self, experiment: Path):
        options = [*ONE_STEP, "student.options.out_channels=96"]
        for name, loss in (("box", "CrossKDBox"), ("class", "CrossKDClass")):
            outcome = segkd("train", experiment / "distilled.yaml", *options)
            refused(outcome, f"'{name}': ", "96 channels, the teacher's 64", f"give {loss} channels=[96, 64]")
            options.append(f"distill.terms.{name}.channels=[96, 64]")
        refused(segkd("train", experiment / "distilled.yaml", *options), "'pkd': ", "give connector='conv1x1'")
        assert not (experiment / "runs").exists()
        train(experiment / "distilled.yaml", *options, "distill.terms.pkd.connector=conv1x1")
        assert_finite(experiment / "runs/distilled")


class TestSizes:
    def test_p7_of_one_cell_and_batches_of_one_image(self, experiment: Path):
        train(experiment / "distilled.yaml", *ONE_STEP, "data.batch_size=1")
        assert_finite(experiment / "runs/distilled")

    def test_an_image_too_small_for_batch_norm(self, experiment: Path):
        options = ["data.batch_size=1", "data.min_size=32", "data.max_size=32"]
        refused(segkd("train", experiment / "tiny.yaml", *SHORT, *options), "data.batch_size", "2 images at least")

    @pytest.mark.parametrize("index", [-1, 5, 2.5])
    def test_an_index_that_no_tower_has(self, experiment: Path, index: float):
        outcome = segkd("train", experiment / "distilled.yaml", f"distill.terms.box.index={index}")
        refused(outcome, "distill.terms.box", str(index))
        assert not (experiment / "runs").exists()
