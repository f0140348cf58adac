import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from segkd.models.smp import build_model
from segkd.training.optim import make_optimizer, make_scheduler, parameter_groups
from segkd.training.schema import Optimizer


def course(steps: int, **settings: object) -> list[float]:
    """The learning rate that each step is taken with."""
    options = Optimizer.model_validate({"lr": 0.1, **settings})
    optimizer = make_optimizer([{"params": [nn.Parameter(torch.zeros(1))], "lr": options.lr}], options)
    scheduler = make_scheduler(optimizer, options, steps)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


class TestCourse:
    def test_poly(self):
        assert course(10) == pytest.approx([0.1 * (1 - step / 10) ** 0.9 for step in range(10)])

    def test_poly_of_another_power(self):
        assert course(10, power=2.0) == pytest.approx([0.1 * (1 - step / 10) ** 2 for step in range(10)])

    def test_cosine(self):
        expected = [0.05 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
        assert course(8, schedule="cosine") == pytest.approx(expected)

    def test_warm_up_rises_in_equal_steps_and_the_rest_follows(self):
        rates = course(14, warmup_steps=4)
        assert rates[:4] == pytest.approx([0.02, 0.04, 0.06, 0.08])
        assert rates[4:] == pytest.approx([0.1 * (1 - step / 10) ** 0.9 for step in range(10)])

    def test_warm_up_before_cosine(self):
        rates = course(12, warmup_steps=4, schedule="cosine")
        assert rates[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
        assert rates[8] == pytest.approx(0.05)

    @pytest.mark.parametrize("schedule", ["poly", "cosine"])
    def test_a_warm_up_longer_than_the_run(self, schedule: str):
        rates = course(3, warmup_steps=100, schedule=schedule)
        assert rates == pytest.approx([0.1 / 3, 0.2 / 3, 0.1])

    @pytest.mark.parametrize("schedule", ["poly", "cosine", "onecycle"])
    def test_a_single_step_learns(self, schedule: str):
        assert course(1, schedule=schedule)[0] > 0

    def test_onecycle_rises_then_falls_to_nothing(self):
        rates = course(100, schedule="onecycle")
        assert rates[0] == pytest.approx(0.1 / 25)
        assert max(rates) == pytest.approx(0.1, rel=1e-2)
        assert rates.index(max(rates)) == pytest.approx(30, abs=1)
        assert 0 <= rates[-1] < 1e-3

    def test_multistep(self):
        rates = course(100, lr=1.0, schedule="multistep", milestones=[60, 80], warmup_steps=10)
        assert rates[59] == pytest.approx(1.0)
        assert rates[60] == pytest.approx(0.1)
        assert (rates[79], rates[80]) == (pytest.approx(0.1), pytest.approx(0.01))
        assert rates[0] < rates[5] < rates[10] == pytest.approx(1.0)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build_model("Unet", "resnet18", 3, None, auxiliary=True)


class TestGroups:
    def test_encoder_and_head(self, model: nn.Module):
        encoder, head = parameter_groups([model], Optimizer(lr=0.1, encoder_lr=0.01))
        assert (encoder["name"], encoder["lr"], head["name"], head["lr"]) == ("encoder", 0.01, "head", 0.1)
        in_encoder = {id(parameter) for parameter in model.model.encoder.parameters()}
        assert {id(parameter) for parameter in encoder["params"]} == in_encoder
        everything = {id(parameter) for parameter in model.parameters()}
        assert {id(parameter) for parameter in head["params"]} == everything - in_encoder

    def test_a_detectors_body(self):
        model = nn.ModuleDict({"body": nn.Linear(1, 1), "fpn": nn.Linear(1, 1)})
        encoder, head = parameter_groups(
            [nn.ModuleDict({"backbone": model})], Optimizer(lr=0.1, encoder_lr=0.01), ("body",)
        )
        assert [id(p) for p in encoder["params"]] == [id(p) for p in model["body"].parameters()]
        assert [id(p) for p in head["params"]] == [id(p) for p in model["fpn"].parameters()]

    def test_one_rate_unless_told_otherwise(self, model: nn.Module):
        assert {group["lr"] for group in parameter_groups([model], Optimizer(lr=0.1))} == {0.1}

    def test_biases_apart_but_not_those_of_norms(self):
        model = nn.ModuleDict({"body": nn.Conv2d(1, 2, 1), "norm": nn.GroupNorm(1, 2), "head": nn.Linear(2, 2)})
        settings = Optimizer(lr=0.1, encoder_lr=0.01, weight_decay=0.3, bias_lr_factor=2.0, bias_weight_decay=0.0)
        groups = parameter_groups([model], settings, ("body",))
        assert [(group["name"], group["lr"], group.get("weight_decay")) for group in groups] == [
            ("encoder", 0.01, None), ("head", 0.1, None), ("encoder_bias", 0.02, 0.0), ("head_bias", 0.2, 0.0),
        ]  # fmt: skip
        expected = [[model["body"].weight], [*model["norm"].parameters(), model["head"].weight]]
        expected += [[model["body"].bias], [model["head"].bias]]
        assert [[id(p) for p in group["params"]] for group in groups] == [[id(p) for p in group] for group in expected]
        optimizer = make_optimizer(groups, settings)
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0, 0.0]

    @pytest.mark.parametrize("settings", [{"bias_lr_factor": 2.0}, {"bias_weight_decay": 0.5}])
    def test_either_alone_sets_biases_apart(self, settings: dict[str, float]):
        weight, bias = parameter_groups([nn.Linear(2, 2)], Optimizer(lr=0.1, weight_decay=0.3, **settings))
        assert (weight["name"], bias["name"]) == ("head", "head_bias")
        assert bias["lr"] == pytest.approx(0.1 * settings.get("bias_lr_factor", 1))
        assert bias["weight_decay"] == settings.get("bias_weight_decay", 0.3)

    def test_frozen_parameters_and_empty_groups_are_left_out(self):
        linear = nn.Linear(2, 2)
        linear.bias.requires_grad_(False)
        (head,) = parameter_groups([linear, nn.ModuleDict()], Optimizer())
        assert [id(parameter) for parameter in head["params"]] == [id(linear.weight)]


class TestOptimizer:
    def test_sgd(self):
        groups = [{"params": [nn.Parameter(torch.zeros(1))]}]
        optimizer = make_optimizer(groups, Optimizer(name="sgd", lr=0.5, momentum=0.8, weight_decay=0.3))
        assert isinstance(optimizer, torch.optim.SGD)
        group = optimizer.param_groups[0]
        assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.5, 0.8, 0.3)

    def test_adamw(self):
        groups = [{"params": [nn.Parameter(torch.zeros(1))]}]
        optimizer = make_optimizer(groups, Optimizer(name="adamw", lr=0.5, weight_decay=0.3))
        assert isinstance(optimizer, torch.optim.AdamW)
        assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["weight_decay"]) == (0.5, 0.3)

    def test_no_other(self):
        with pytest.raises(ValidationError, match="sgd"):
            Optimizer.model_validate({"name": "lion"})
