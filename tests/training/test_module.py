from typing import Any

import pytest
import torch
from experiments import TINY
from torch import nn

from segkd.distiller import Distiller
from segkd.errors import SegkdError
from segkd.network import Network
from segkd.training.module import DistillModule, draw_seed
from segkd.training.segmentation.schema import SegmentationConfig
from segkd.training.segmentation.task import SegmentationTask


@pytest.fixture
def module() -> DistillModule:
    data: dict[str, Any] = {"dataset": "camvid", "crop": [32, 32]}
    task = SegmentationTask(SegmentationConfig.model_validate({**TINY, "data": data}))
    return DistillModule(task, Distiller(Network(nn.Conv2d(3, 2, 1)), None, {}, nn.CrossEntropyLoss(ignore_index=255)))


def test_state_is_the_student_alone(module: DistillModule):
    assert set(module.state_dict()) == {"distiller.student.weight", "distiller.student.bias"}


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
