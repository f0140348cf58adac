from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from experiments import refused, same, segkd, train, write

from segkd.segmentation.auxiliary import WithAuxiliary
from segkd.segmentation.models import build_model
from segkd.training.teacher import BuiltTeacher, fit_auxiliary, load_auxiliary, save_auxiliary

FIT = ["teacher.auxiliary=fit", "teacher.auxiliary_fit.steps=4", "distill.pixel_weighting.rdd.switch=0.5"]


@pytest.fixture
def teacher() -> BuiltTeacher:
    torch.manual_seed(0)
    model = build_model("DeepLabV3Plus", "tu-mobilenetv3_small_050", 3, None, auxiliary=True)
    return BuiltTeacher(model, "", ((0.5,) * 3, (0.5,) * 3), needs_fit=True)


class TestFit:
    def test_lowers_the_loss_and_changes_the_head_alone(self, teacher: BuiltTeacher):
        assert isinstance(teacher.model, WithAuxiliary)
        target = torch.randint(0, 3, (2, 4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)
        images = torch.stack([(target == c).float() for c in range(3)], 1) - 0.5
        before = {key: value.clone() for key, value in teacher.model.state_dict().items()}
        losses: list[float] = []
        batches = iter(lambda: (images, target), None)
        fit_auxiliary(teacher, batches, 30, 0.01, 255, torch.device("cpu"), lambda step, loss: losses.append(loss))
        assert len(losses) == 30
        assert losses[-1] < 0.8 * losses[0]
        assert not teacher.needs_fit
        after = teacher.model.state_dict()
        changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert changed == {"auxiliary"}
        assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
        assert not any(part.training for part in teacher.model.modules())

    def test_written_and_read(self, teacher: BuiltTeacher, tmp_path: Path):
        assert isinstance(teacher.model, WithAuxiliary)
        save_auxiliary(teacher, tmp_path / "head.safetensors")
        saved = {key: value.clone() for key, value in teacher.model.auxiliary.state_dict().items()}
        with torch.no_grad():
            for parameter in teacher.model.auxiliary.parameters():
                parameter.zero_()
        load_auxiliary(teacher, tmp_path / "head.safetensors")
        assert same(teacher.model.auxiliary.state_dict(), saved)
        assert [path.name for path in tmp_path.iterdir()] == ["head.safetensors"]


class TestInARun:
    def test_a_head_is_fitted_saved_and_used_again(self, trained: Path):
        outcome = train(trained / "distilled.yaml", "name=rdd", "trainer.max_steps=2", *FIT)
        assert "rdd: an auxiliary head is trained on the teacher, 4 steps" in outcome.out
        head = trained / "runs/rdd/teacher_auxiliary.safetensors"
        assert safetensors.torch.load_file(head)
        before = head.stat().st_mtime_ns
        (trained / "runs/rdd/result.json").unlink()
        outcome = train("--resume", trained / "runs/rdd")
        assert "auxiliary head" not in outcome.out
        assert head.stat().st_mtime_ns == before

    def test_rdd_with_a_teacher_that_has_a_head(self, trained: Path):
        write(trained / "headed.yaml", {"base": "tiny.yaml", "name": "headed", "student": {"auxiliary": True}})
        options = ["name=rdd_headed", "teacher.config=headed.yaml", "distill.pixel_weighting.rdd.switch=0.5"]
        train(trained / "distilled.yaml", *options, "trainer.max_steps=2", "teacher.overrides.trainer.max_steps=1")
        assert (trained / "runs/headed/student/auxiliary.safetensors").is_file()
        assert not (trained / "runs/rdd_headed/teacher_auxiliary.safetensors").exists()

    def test_a_teacher_without_a_head_names_the_option(self, trained: Path):
        options = ["name=headless", "distill.pixel_weighting.rdd.switch=0.1"]
        refused(segkd("train", trained / "distilled.yaml", *options), "auxiliary", "fit")
        refused(segkd("train", trained / "distilled.yaml", *options, "teacher.auxiliary=true"), "teacher.auxiliary=fit")
        assert not (trained / "runs/headless").exists()

    def test_the_second_stage_alone_needs_no_head(self, trained: Path):
        options = ["name=second_stage", "distill.pixel_weighting.rdd.without_auxiliary=second_stage"]
        train(trained / "distilled.yaml", *options, "trainer.max_steps=1")


class TestFromWeights:
    OPTIONS = ("teacher.config=null", "teacher.arch=DeepLabV3Plus", "teacher.encoder=tu-mobilenetv3_small_050")

    @pytest.mark.parametrize(
        "weights", ["", "student", "student/model.safetensors", "checkpoints/best.ckpt"], ids=lambda path: path or "run"
    )
    def test_a_run_or_any_file_of_it(self, trained: Path, weights: str):
        checkpoint = f"teacher.checkpoint={trained / 'runs/teacher' / weights}"
        name = f"name=taught_by_{Path(weights).stem or 'run'}"
        train(trained / "distilled.yaml", *self.OPTIONS, checkpoint, name, "trainer.max_steps=1")

    def test_of_another_architecture(self, trained: Path):
        checkpoint = f"teacher.checkpoint={trained / 'runs/teacher'}"
        outcome = segkd("train", trained / "distilled.yaml", *self.OPTIONS, checkpoint, "teacher.arch=Unet", "name=x")
        refused(outcome, "runs/teacher/student/model.safetensors", "Unet")
        assert not (trained / "runs/x").exists()

    def test_of_another_number_of_classes(self, trained: Path, tmp_path: Path):
        content = yaml.safe_load((trained / "camvid/camvid.yaml").read_text())
        content["classes"] = content["classes"][:-1]
        content["label_map"] = {raw: raw if raw < 10 else "ignore" for raw in range(12)}
        few = write(trained / "camvid/few.yaml", content)
        options = [f"data.dataset={few}", f"teacher.checkpoint={trained / 'runs/teacher'}", "name=x"]
        outcome = segkd("train", trained / "distilled.yaml", *self.OPTIONS, *options)
        refused(outcome, "runs/teacher/student/model.safetensors", "the file has 11 classes, the model 10")
        assert not (trained / "runs/x").exists()

    def test_with_a_class_map(self, trained: Path):
        content = yaml.safe_load((trained / "camvid/camvid.yaml").read_text())
        content["classes"] = content["classes"][:10]
        content["label_map"] = {raw: raw if raw < 10 else "ignore" for raw in range(12)}
        few = write(trained / "camvid/few.yaml", content)
        class_map = f"teacher.class_map=[{','.join(map(str, range(10)))},null]"
        train(trained / "distilled.yaml", f"data.dataset={few}", "name=mapped", class_map, "trainer.max_steps=1")

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
