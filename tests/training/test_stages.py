import re
from pathlib import Path
from typing import Any

import pytest
import torch
from experiments import cut, cut_at, expect_same, make_experiment, measured, refused, same, segkd, train, weights, write
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segkd.comparison.plan import make_jobs, matched_steps, parse_budget
from segkd.comparison.timing import seconds_per_step
from segkd.errors import SegkdError
from segkd.store.store import stores
from segkd.training.checkpoints import Checkpoints
from segkd.training.config import dump_config, load_config
from segkd.training.module import DistillModule
from segkd.training.stages import ends_of, of_length, stage_configs
from segkd.tuning.space import with_values

FEATURES = {"loss": "pkd", "student": "decoder", "teacher": "decoder", "connector": "conv1x1"}
STAGES: list[dict[str, Any]] = [{"steps": 3, "task": 0, "distill": {"terms": {"f": FEATURES}}}, {"steps": 4}]
STAGED = {"base": "distilled.yaml", "name": "staged", "trainer": {"max_steps": None}, "stages": STAGES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the finished run `staged`, of 3 and 4 steps."""
    folder = make_experiment(tmp_path_factory.mktemp("stages"))
    write(folder / "staged.yaml", STAGED)
    train(folder / "staged.yaml")
    return folder


def scalars(run: Path) -> dict[str, list[float]]:
    accumulator = EventAccumulator(str(run))
    accumulator.Reload()
    return {tag: [event.value for event in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


class TestConfig:
    def test_a_stage_without_distill_has_the_configs_and_null_has_none(self, folder: Path):
        write(folder / "plain.yaml", {**STAGED, "name": "plain", "stages": [*STAGES, {"steps": 2, "distill": None}]})
        config = load_config(str(folder / "plain.yaml"))
        assert config.stages is not None
        assert [sorted(stage.distill.named_terms()) for stage in config.stages] == [["f"], ["icsd", "kd"], []]
        assert (config.trainer.max_steps, ends_of(config)) == (9, [3, 7, 9])

    def test_the_whole_config_says_the_same(self, folder: Path):
        config = load_config(str(folder / "staged.yaml"))
        write(folder / "dumped.yaml", dump_config(config))
        assert load_config(str(folder / "dumped.yaml")) == config

    def test_a_change_of_what_the_config_distils_reaches_the_stages_that_have_no_other(self, folder: Path):
        """Also once the config is written out whole, as a run keeps it and as tune changes it."""
        for source in (
            folder / "staged.yaml",
            folder / "runs/staged/config.yaml",
            load_config(str(folder / "staged.yaml")),
        ):
            key = "distill.terms.kd.weight"
            config = (
                load_config(str(source), [f"{key}=7"]) if isinstance(source, Path) else with_values(source, {key: 7})
            )
            first, second = stage_configs(config)
            assert list(first.distill.named_terms()) == ["f"]
            assert second.distill.named_terms()["kd"].weight == 7

    @pytest.mark.parametrize("steps", [("2.0", "3"), ("'2'", "3"), ("2", "3e0")])
    def test_steps_are_summed_however_they_are_written(self, folder: Path, steps: tuple[str, str]):
        stages = "stages=[" + ", ".join(f"{{steps: {count}}}" for count in steps) + "]"
        config = load_config(str(folder / "staged.yaml"), [stages, "trainer.max_steps=null"])
        assert (config.trainer.max_steps, ends_of(config)) == (5, [2, 5])
        with pytest.raises(SegkdError, match="the stages have 5 steps together"):
            load_config(str(folder / "staged.yaml"), [stages, "trainer.max_steps=7"])
        assert load_config(str(folder / "staged.yaml"), [stages, "trainer.max_steps=5.0"]).trainer.max_steps == 5

    def test_without_stages_nothing_is_different(self, folder: Path):
        config = load_config(str(folder / "distilled.yaml"))
        assert config.stages is None
        assert ends_of(config) == [4]

    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ("trainer.max_steps=9", "trainer.max_steps is 9, but the stages have 7 steps together"),
            ("stages=[{steps: 0}]", "stages.0.steps: expected at least 1, got 0"),
            ("stages=[{stpes: 3}]", "there is no key 'stages.0.stpes', did you mean"),
            ("stages=[{steps: 3, task: -1}]", "stages.0.task: expected at least 0, got -1"),
            ("stages=3", "stages: expected [{steps: 2000, distill: {...}, task: 0}, {steps: 4000}]"),
            ("stages=[{steps: 3, task: 0, distill: null}]", "stage 1: nothing teaches"),
            ("stages=[{steps: 3, distill: {terms: {f: {loss: pkdd}}}}]", "did you mean 'pkd'?"),
            ("stages=[{steps: 1, distill: {schedule: {kd: {linear: {start: 1, end: 0}}}}}]", "stage 1: distill.sche"),
        ],
    )
    def test_refuses(self, folder: Path, change: str, text: str):
        changes = [change] if change.startswith("trainer") else [change, "trainer.max_steps=null"]
        refused(segkd("train", folder / "staged.yaml", *changes), text)


class TestRun:
    def test_a_finished_one_is_as_long_as_its_stages(self, folder: Path):
        run = folder / "runs/staged"
        for change in ([], ["trainer.max_steps=null"]):
            refused(segkd("train", "--resume", run, *change), "is finished, and its stages are as long as they were")

    def test_each_stage_trains_what_is_its_own(self, folder: Path):
        shown = scalars(folder / "runs/staged")
        assert shown["stage"] == [1, 1, 1, 2, 2, 2, 2]
        assert shown["weight/task"] == pytest.approx([0, 0, 0, 0, 0.25, 0.5, 0.75])  # ALW, over the second stage
        assert shown["weight/kd"] == pytest.approx([1, 0.75, 0.5, 0.25])
        assert len(shown["train/f"]) == 3
        assert len(shown["train/icsd"]) == 4

    def test_the_rate_begins_anew_in_each_stage(self, folder: Path):
        rates = scalars(folder / "runs/staged")["lr/head"]
        assert rates[:3] == pytest.approx([0.001 * (1 - step / 3) ** 0.9 for step in range(3)])
        assert rates[3:] == pytest.approx([0.001 * (1 - step / 4) ** 0.9 for step in range(4)])

    def test_the_end_of_each_stage_is_validated(self, folder: Path):
        assert [row["step"] for row in measured(folder / "runs/staged")] == ["2", "3", "4", "6", "7"]

    @pytest.mark.slow
    def test_a_connector_learns_in_its_stage_alone(self, folder: Path):
        steps: dict[int, torch.Tensor] = {}

        def note(module: DistillModule, *_: Any) -> bool:
            steps[module.global_step] = module.distillers[0].connectors["f"].weight.detach().clone()
            return False

        with cut(DistillModule, "training_step", note):
            train(folder / "staged.yaml", "name=noted", "optimizer.weight_decay=0.1")
        assert not torch.equal(steps[2], steps[3])
        assert all(torch.equal(steps[3], steps[step]) for step in (4, 5, 6))
        end = weights(folder / "runs/noted/checkpoints/last.ckpt")
        assert torch.equal(end["parts.0.0.f.weight"], steps[3])

    @pytest.mark.parametrize("step", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (2, 4))])
    def test_resumed_within_a_stage_or_at_its_border_it_is_the_same(self, folder: Path, step: int):
        name = f"stopped{step}"
        with cut_at(step):
            segkd("train", folder / "staged.yaml", f"name={name}", "trainer.checkpoint_every=1")
        train("--resume", folder / "runs" / name)
        expect_same(folder / "runs" / name, folder / "runs/staged")

    @pytest.mark.slow
    def test_resumed_in_the_validation_at_a_border_it_is_the_same(self, folder: Path):
        def at_border(callback: Checkpoints, trainer: Any, *_: Any) -> bool:
            return bool(trainer.global_step == 3)

        with cut(Checkpoints, "on_validation_end", at_border):
            segkd("train", folder / "staged.yaml", "name=border", "trainer.checkpoint_every=1")
        train("--resume", folder / "runs/border")
        expect_same(folder / "runs/border", folder / "runs/staged")

    @pytest.mark.slow
    @pytest.mark.parametrize("change", ["optimizer.schedule=onecycle", "trainer.accumulate=2"])
    def test_other_courses_and_accumulated_steps_resume_alike(self, folder: Path, change: str):
        name = f"of_{change.partition('=')[2]}"
        warm = ["optimizer.name=sgd", "optimizer.warmup_steps=1", change]
        train(folder / "staged.yaml", f"name={name}", *warm)
        with cut_at(5):
            segkd("train", folder / "staged.yaml", f"name={name}_cut", "trainer.checkpoint_every=1", *warm)
        train("--resume", folder / f"runs/{name}_cut")
        expect_same(folder / f"runs/{name}_cut", folder / f"runs/{name}")

    @pytest.mark.slow
    def test_one_stage_is_a_run_without(self, folder: Path):
        train(folder / "distilled.yaml")
        write(folder / "one.yaml", {**STAGED, "name": "one", "stages": [{"steps": 4}]})
        train(folder / "one.yaml")
        ours, theirs = (weights(folder / f"runs/{name}/checkpoints/last.ckpt") for name in ("one", "distilled"))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)

    def test_a_run_is_of_its_stages(self, folder: Path):
        refused(segkd("train", "--resume", folder / "runs/staged", "trainer.max_steps=9"), "the stages have 7 steps")


class TestStore:
    def test_each_stage_fills_the_views_of_its_own_steps(self, folder: Path):
        """The third reads what the first has stored, as far as its views have come before."""
        kd = {"loss": "pixel_kd"}
        stages = [
            {"steps": count, "distill": {"terms": terms}} for count, terms in ((2, {"kd": kd}), (3, {"f": FEATURES}))
        ]
        stages.append({"steps": 2, "distill": {"terms": {"kd": kd}}})
        content = {**STAGED, "stages": stages, "data": {"views": 2, "view_seed": 5}}
        for name, store in (("live", None), ("kept", {"folder": str(folder / "kept")})):
            teacher = {"config": None, "checkpoint": str(folder / "runs/teacher"), "store": store}
            out = train(write(folder / f"{name}.yaml", {**content, "name": name, "teacher": teacher})).out
        # Of the last four views, of the first epoch again, three are there.
        assert re.findall(r"(\d+) of (\d+) views are stored", out) == [("4", "4"), ("6", "6"), ("1", "4")]
        live, kept = (weights(folder / f"runs/{name}/checkpoints/last.ckpt") for name in ("live", "kept"))
        assert same(live, kept)
        (listed,) = stores(folder / "kept")
        assert len(list((listed.store.folder / "decoder").rglob("*.safetensors"))) == 6


class TestBudget:
    def test_stages_keep_their_shares(self, folder: Path):
        config = load_config(str(folder / "staged.yaml"))
        assert ends_of(of_length(config, 700)) == [300, 700]
        assert ends_of(of_length(config, 2)) == [1, 2]
        (job,) = make_jobs([config], 1, {"staged": 14})
        assert (job.config.trainer.max_steps, ends_of(job.config)) == (14, [6, 14])
        with pytest.raises(SegkdError, match="2 stages need as many steps, got 1"):
            of_length(config, 1)

    def test_a_step_takes_the_mean_over_all_stages(self, folder: Path):
        config = load_config(str(folder / "staged.yaml"))
        assert matched_steps([config], parse_budget("3minutes")) is None
        assert seconds_per_step(config) > 0
