import pytest
import torch
from torch import nn

from segkd.adapter import Normalization
from segkd.distiller import Distiller
from segkd.errors import SegkdError
from segkd.segmentation.models import build_model
from segkd.training.module import DistillModule, draw_seed, predict_as_configured
from segkd.training.schema import Config

NORMALIZATION: Normalization = ((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))


@pytest.fixture
def config() -> Config:
    student = {"arch": "Unet", "encoder": "resnet18"}
    return Config.model_validate({"name": "a", "data": {"dataset": "camvid", "crop": [32, 32]}, "student": student})


@pytest.fixture
def module(config: Config) -> DistillModule:
    distiller = Distiller(nn.Conv2d(3, 2, 1), None, {}, nn.CrossEntropyLoss(ignore_index=255))
    return DistillModule(config, distiller, NORMALIZATION, ["a", "b"], 255)


def test_normalizes_bytes(module: DistillModule):
    images = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    assert module.normalize(images).flatten().tolist() == pytest.approx([1.0, -1.0, 0.2])


def test_state_is_the_student_alone(module: DistillModule):
    assert set(module.state_dict()) == {"distiller.student.weight", "distiller.student.bias"}


def test_scalars_name_the_classes(module: DistillModule):
    module.measured = {"miou": 0.5, "pixel_accuracy": 0.6, "class_accuracy": 0.7, "iou": [0.25, 0.75]}
    expected = {"val/miou": 0.5, "val/pixel_accuracy": 0.6, "val/class_accuracy": 0.7, "iou/a": 0.25, "iou/b": 0.75}
    assert module.scalars() == expected


def test_measured_travels_in_checkpoints(module: DistillModule):
    module.measured = {"miou": 0.5}
    checkpoint: dict = {}
    module.on_save_checkpoint(checkpoint)
    module.measured = {}
    module.on_load_checkpoint(checkpoint)
    assert module.measured == {"miou": 0.5}


class TestNotFinite:
    def out(self, module: DistillModule, scale: float):
        images = torch.full((1, 3, 4, 4), scale)
        return module.distiller(images, torch.zeros(1, 4, 4, dtype=torch.long))

    def test_passes_while_all_is_finite(self, module: DistillModule):
        module._watch(self.out(module, 1.0))
        module.stop_if_bad()

    def test_names_the_first_step_and_term(self, module: DistillModule):
        module._watch(self.out(module, float("nan")))
        module._watch(self.out(module, 1.0))
        with pytest.raises(SegkdError, match=r"^step 1: the term 'task' is not finite"):
            module.stop_if_bad()


def test_draw_seed_tells_runs_batches_and_processes_apart():
    seeds = {draw_seed(seed, batch, rank) for seed in range(3) for batch in range(3) for rank in range(3)}
    assert len(seeds) == 27
    assert draw_seed(1, 2, 3) == draw_seed(1, 2, 3)


def test_sliding_uses_the_crop_unless_a_window_is_given(config: Config):
    model = build_model("Unet", "resnet18", 2, None).eval()
    images, target = torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long)
    seen: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape[-2:])))
    config.validation.mode = "sliding"
    assert predict_as_configured(model, images, target, config).shape == (1, 2, 64, 64)
    assert set(seen) == {(32, 32)}
    seen.clear()
    config.validation.window = (64, 32)
    predict_as_configured(model, images, target, config)
    assert set(seen) == {(64, 32)}
