from pathlib import Path

import pytest
import safetensors.torch
import torch
from experiments import refused, same, segkd, train, write

from segkd.models.auxiliary import WithAuxiliary
from segkd.models.smp import build_model
from segkd.training.segmentation.auxiliary import fit_auxiliary, load_auxiliary, save_auxiliary

FIT = ["teacher.auxiliary=fit", "teacher.auxiliary_fit.steps=4", "distill.pixel_weighting.rdd.switch=0.5"]


@pytest.fixture
def teacher() -> WithAuxiliary:
    torch.manual_seed(0)
    model = build_model("DeepLabV3Plus", "tu-mobilenetv3_small_050", 3, None, auxiliary=True)
    assert isinstance(model, WithAuxiliary)
    return model


class TestFit:
    def test_lowers_the_loss_and_changes_the_head_alone(self, teacher: WithAuxiliary):
        target = torch.randint(0, 3, (2, 4, 4)).repeat_interleave(16, 1).repeat_interleave(16, 2)
        images = torch.stack([(target == c).float() for c in range(3)], 1) - 0.5
        before = {key: value.clone() for key, value in teacher.state_dict().items()}
        batches = iter(lambda: (images, target), None)
        losses = fit_auxiliary(teacher, batches, 30, 0.01, 255, torch.device("cpu"))
        assert len(losses) == 30
        assert losses[-1] < 0.8 * losses[0]
        after = teacher.state_dict()
        changed = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
        assert changed == {"auxiliary"}
        assert not any(parameter.requires_grad for parameter in teacher.parameters())
        assert not any(part.training for part in teacher.modules())

    def test_written_and_read(self, teacher: WithAuxiliary, tmp_path: Path):
        save_auxiliary(teacher, tmp_path / "head.safetensors")
        saved = {key: value.clone() for key, value in teacher.auxiliary.state_dict().items()}
        with torch.no_grad():
            for parameter in teacher.auxiliary.parameters():
                parameter.zero_()
        load_auxiliary(teacher, tmp_path / "head.safetensors")
        assert same(teacher.auxiliary.state_dict(), saved)
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

    def test_it_is_fitted_on_what_the_teacher_sees(self, trained: Path):
        heads = []
        for name, *jitter in (
            ("without_jitter",),
            ("own_jitter", "data.jitter_seen_by=student", "data.color_jitter=0.9"),
            ("jitter", "data.color_jitter=0.9"),
        ):
            train(trained / "distilled.yaml", f"name={name}", "trainer.max_steps=1", *FIT, *jitter)
            heads.append(safetensors.torch.load_file(trained / f"runs/{name}/teacher_auxiliary.safetensors"))
        assert same(heads[0], heads[1])
        assert not same(heads[0], heads[2])

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
