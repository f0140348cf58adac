from typing import Any

import pytest
from experiments import TINY
from pydantic import BaseModel, ValidationError

from segkd.connectors import MLP
from segkd.losses import ICSD, PixelKD
from segkd.training.config import load_config, shipped_configs
from segkd.training.distill import Distill, TermBlock
from segkd.training.schema import Block
from segkd.training.segmentation.schema import SegmentationConfig
from segkd.weighting import RelativeDifficulty

MINIMAL = {"name": "a", "data": {"dataset": "camvid", "crop": [8, 8]}, "student": TINY["student"]}


def blocks(base: type[BaseModel] = Block) -> list[type[BaseModel]]:
    return [block for below in base.__subclasses__() for block in (below, *blocks(below))]


def test_defaults_are_valid():
    config = SegmentationConfig.model_validate(MINIMAL)
    assert SegmentationConfig.model_validate(config.model_dump(mode="json")) == config
    assert config.teacher is None


@pytest.mark.parametrize(
    "block",
    [block for block in blocks() if block is not TermBlock],
    ids=lambda b: f"{b.__module__.split('.')[-2]}-{b.__name__}",
)
def test_unknown_keys_are_errors(block: type[BaseModel]):
    with pytest.raises(ValidationError, match="Extra inputs"):
        block.model_validate({"unheard_of": 1})


class TestDistill:
    def test_a_terms_further_keys_are_its_losss_options(self):
        block = TermBlock.model_validate({"loss": "pixel_kd", "weight": 2, "temperature": 3})
        term = block.build()
        assert isinstance(term.loss, PixelKD)
        assert (term.loss.temperature, term.weight, term.student, term.teacher) == (3.0, 2.0, "logits", "logits")

    def test_options_survive_a_round_trip(self):
        block = TermBlock.model_validate({"loss": "pixel_kd", "temperature": 3})
        assert TermBlock.model_validate(block.model_dump()) == block

    def test_terms_by_name_without_those_taken_out(self):
        distill = Distill.model_validate({"terms": {"a": {"loss": "icsd"}, "b": None}})
        assert list(distill.build_terms()) == ["a"]
        assert isinstance(distill.build_terms()["a"].loss, ICSD)

    def test_alw(self):
        schedule = Distill.model_validate({"schedule": {"alw": {"rise": ["task"], "fall": ["kd"]}}}).build_schedule()
        assert {name: part(0.25) for name, part in schedule.items()} == {"task": 0.25, "kd": 0.75}

    def test_a_schedule_for_each_term(self):
        schedule = Distill.model_validate({"schedule": {"task": {"linear": {"start": 1, "end": 3}}}}).build_schedule()
        assert schedule["task"](0.5) == pytest.approx(2.0)

    @pytest.mark.parametrize(
        "schedule",
        [
            {"alw": {}, "kd": {"linear": {"start": 0, "end": 1}}},
            {"mine:two": {}, "kd": {"linear": {"start": 0, "end": 1}}},
            {"kd": 0.5},
            {"kd": {"alw": {}}},
            {"kd": {}},
            {"kd": "linear"},
            {"kd": {"linear": 3}},
            "awl",
        ],
        ids=str,
    )
    def test_schedules_that_are_none(self, schedule: dict[str, Any]):
        with pytest.raises(ValidationError):
            Distill.model_validate({"schedule": schedule})

    def test_pixel_weighting_takes_the_data_sets_ignore_index(self):
        weighting = Distill.model_validate({"pixel_weighting": {"rdd": {"min_kept": 5}}}).build_weighting(11)
        assert isinstance(weighting, RelativeDifficulty)
        assert (weighting.ignore_index, weighting.min_kept) == (11, 5)
        assert Distill().build_weighting() is None

    def test_a_name_alone_is_one_without_options(self):
        distill = Distill.model_validate({"schedule": "alw", "pixel_weighting": "rdd"})
        assert distill.build_schedule().keys() == {"task", "icsd", "kd"}
        assert isinstance(distill.build_weighting(), RelativeDifficulty)

    def test_connectors(self):
        blocks = [{"loss": "pkd", "connector": given} for given in (None, "mlp", {"mlp": {"hidden": 3}}, "m:f")]
        terms = [TermBlock.model_validate(block) for block in blocks]
        assert (terms[0].build().connector, terms[1].build().connector) == (None, MLP)
        assert terms[2].build().connector(4, 5)[0].out_channels == 3
        for wrong in ({}, {"conv1x1": {}, "mlp": {}}, "conv3", {"mlp": {"hiden": 3}}, "m:f:g", 3):
            with pytest.raises(ValidationError):
                TermBlock.model_validate({"loss": "pkd", "connector": wrong})

    def test_what_is_the_users_own_is_not_imported_yet(self):
        distill = Distill.model_validate(
            {
                "terms": {"a": {"loss": "nowhere:Mine", "power": 3}},
                "schedule": {"a": "nowhere:f"},
                "pixel_weighting": {"nowhere:w": {"x": 1}},
            }
        )
        assert distill.names_code()
        assert not Distill.model_validate({"terms": {"a": {"loss": "icsd"}}, "schedule": "alw"}).names_code()

    def test_one_pixel_weighting(self):
        with pytest.raises(ValidationError, match="one method"):
            Distill.model_validate({"pixel_weighting": {"rdd": {}, "other": {}}})


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizer.momentum=0.5", "optimizer.momentum has no effect: it counts where optimizer.name is sgd"),
        ("optimizer.power=2", "optimizer.power has no effect: it counts where optimizer.schedule is poly"),
        ("optimizer.milestones=[2]", "optimizer.milestones has no effect: it counts where optimizer.schedule is mu"),
        ("optimizer.warmup_steps=1", "optimizer.warmup_steps has no effect: it counts where optimizer.schedule is po"),
        ("validation.window=[32,32]", "validation.window has no effect: it counts where validation.mode is sliding"),
        ("validation.stride=[8,8]", "validation.stride has no effect: it counts where validation.mode is sliding"),
    ],
)
def test_what_counts_for_nothing_is_told(override: str, told: str):
    other = ["optimizer.name=adamw", "optimizer.schedule=onecycle"]
    assert load_config("quickstart_plain", other).without_effect() == []
    found = load_config("quickstart_plain", [*other, override]).without_effect()
    assert len(found) == 1
    assert found[0].startswith(told)


def test_a_warm_up_beyond_the_run_is_told():
    for steps, told in ((50, []), (8, ["optimizer.warmup_steps: the run's 8 steps end before a warm-up of 8"])):
        options = ["optimizer.schedule=poly", "optimizer.warmup_steps=8", f"trainer.max_steps={steps}"]
        assert load_config("quickstart_plain", options).without_effect() == told


def test_shipped_configs_say_nothing_without_effect():
    for path in shipped_configs():
        assert load_config(str(path), build=False).without_effect() == [], path.name
