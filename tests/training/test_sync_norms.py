"""Batch norms over all processes: what beside the statistics is the model's own stays, and all of it comes back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy
from timm.layers import BatchNormAct2d
from torch import nn

from segkd.training.config import load_config
from segkd.training.fit import make_trainer
from segkd.training.sync_norms import SyncNorms


class Halved(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / 2


def test_a_model_with_synchronised_norms_gives_the_same_and_gets_its_own_back():
    shared = nn.BatchNorm2d(4)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), BatchNormAct2d(4), shared, nn.Conv2d(4, 4, 1), shared, Halved(4)).eval()
    before, parts, seen = list(model.state_dict()), list(model), list[torch.Tensor]()
    model[1].register_forward_hook(lambda *given: seen.append(given[-1]))
    x = torch.randn(2, 3, 5, 6)
    expected, plugin = model(x), SyncNorms()

    assert plugin.apply(model) is model
    assert [isinstance(part, nn.SyncBatchNorm) for part in model] == [False, True, True, False, True, False]
    assert model[2] is model[4]
    assert torch.equal(model(x), expected)
    assert len(seen) == 2
    assert seen[1].min() == 0  # after the activation
    model.train()
    model.double()  # which gives a module other buffers
    model[1].running_mean.fill_(7)

    assert plugin.revert(model) is model
    assert all(now is own for now, own in zip(model, parts, strict=True))
    assert list(model.state_dict()) == before
    assert all(part.training for part in model.modules())
    assert {value.dtype for value in model.state_dict().values() if value.is_floating_point()} == {torch.float64}
    assert torch.equal(model[1].running_mean, torch.full((4,), 7.0, dtype=torch.float64))


@pytest.mark.parametrize(("changes", "wanted"), [({}, True), ({"accelerator": "cpu"}, False)])
def test_they_are_for_gpus(changes: dict[str, Any], wanted: bool, experiment: Path, monkeypatch: pytest.MonkeyPatch):
    options = {"accelerator": "auto", "devices": 2, "strategy": "ddp", **changes}
    config = load_config(str(experiment / "tiny.yaml"), {"trainer": options})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    strategy = make_trainer(config, logger=False).strategy
    assert isinstance(strategy, DDPStrategy)
    assert isinstance(strategy._layer_sync, SyncNorms) == wanted
