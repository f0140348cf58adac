from pathlib import Path

import pytest
import torch
import yaml
from experiments import refused, segkd, train, write

FIT = ["teacher.auxiliary=fit", "teacher.auxiliary_fit.steps=4", "distill.pixel_weighting.rdd.switch=0.5"]


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
