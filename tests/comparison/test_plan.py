from pathlib import Path

import pytest
from experiments import make_detection_experiment, write

from segkd.comparison.plan import Budget, load_methods, make_jobs, matched_steps, parse_budget, teachers_of
from segkd.errors import SegkdError
from segkd.training.config import load_config


def configs(experiment: Path, *names: str) -> list:
    return load_methods([str(experiment / f"{name}.yaml") for name in names], [], experiment / "out")


class TestBudget:
    @pytest.mark.parametrize(
        ("text", "budget"),
        [
            ("steps", Budget("steps")),
            ("minutes", Budget("minutes")),
            ("700steps", Budget("steps", 700)),
            ("1 step", Budget("steps", 1)),
            ("12.5 minutes", Budget("minutes", 12.5)),
            ("3min", Budget("minutes", 3)),
        ],
    )
    def test_is_read(self, text: str, budget: Budget):
        assert parse_budget(text) == budget

    @pytest.mark.parametrize("text", ["", "700", "hours", "0steps", "1.5steps", "-3minutes", "steps700", "0 minutes"])
    def test_anything_else_is_refused(self, text: str):
        with pytest.raises(SegkdError, match="700steps"):
            parse_budget(text)

    @pytest.mark.parametrize("budget", [Budget("steps"), Budget("steps", 1234567), Budget("minutes", 12.5)])
    def test_is_written_as_it_is_read(self, budget: Budget):
        assert parse_budget(str(budget)) == budget

    def test_steps_of_the_configs_must_agree(self, experiment: Path):
        write(experiment / "long.yaml", {"base": "tiny.yaml", "name": "long", "trainer": {"max_steps": 6}})
        methods = configs(experiment, "tiny", "long")
        with pytest.raises(SegkdError, match=r"tiny trains 4 steps, long 6; --budget 4steps"):
            matched_steps(methods, Budget("steps"))
        assert matched_steps(methods, Budget("steps", 5)) == {"tiny": 5, "long": 5}
        assert matched_steps(methods[:1], Budget("steps")) == {"tiny": 4}
        assert matched_steps(methods, Budget("minutes")) is None


class TestComparable:
    def test_runs_go_to_the_comparison(self, experiment: Path):
        assert {config.runs for config in configs(experiment, "tiny", "distilled")} == {str(experiment / "out")}

    def test_overrides_go_to_all(self, experiment: Path):
        names = [str(experiment / "tiny.yaml"), str(experiment / "distilled.yaml")]
        methods = load_methods(names, ["data.batch_size=3"], experiment / "out")
        assert [config.data.batch_size for config in methods] == [3, 3]

    def test_a_directory_that_is_named_by_a_number(self, experiment: Path):
        (config,) = load_methods([str(experiment / "tiny.yaml")], [], Path("2024"))
        assert config.runs == "2024"

    def test_seeds_are_not_for_an_override_to_say(self, experiment: Path):
        with pytest.raises(SegkdError, match=r"^seed=5: .* --seeds"):
            load_methods([str(experiment / "tiny.yaml")], ["seed=5"], experiment / "out")

    def test_a_method_without_options_is_another(self, experiment: Path):
        for name, options in (("null", None), ("empty", {})):
            weighted = {"base": "distilled.yaml", "name": name, "distill": {"pixel_weighting": {"rdd": options}}}
            write(experiment / f"{name}.yaml", {**weighted, "teacher": {"auxiliary": "fit"}})
        write(experiment / "fit.yaml", {"base": "distilled.yaml", "name": "fit", "teacher": {"auxiliary": "fit"}})
        assert len(configs(experiment, "fit", "null")) == 2
        with pytest.raises(SegkdError, match="null and empty differ in nothing but name and seed"):
            configs(experiment, "null", "empty")

    def test_two_of_one_name(self, experiment: Path):
        with pytest.raises(SegkdError, match="two configs have the name 'tiny'"):
            configs(experiment, "tiny", "distilled", "tiny")

    def test_two_that_are_the_same(self, experiment: Path):
        write(experiment / "again.yaml", {"base": "tiny.yaml", "name": "again", "seed": 3, "data": {"workers": 1}})
        with pytest.raises(SegkdError, match="tiny and again differ in nothing but name and seed"):
            configs(experiment, "tiny", "again")

    def test_another_data_set(self, experiment: Path):
        write(experiment / "streets.yaml", {"base": "tiny.yaml", "name": "other", "data": {"dataset": "streets"}})
        with pytest.raises(SegkdError, match=r"tiny and other cannot be compared: their data set is .*'streets'"):
            configs(experiment, "tiny", "streets")

    def test_another_folder_of_the_same_data_set(self, experiment: Path):
        write(
            experiment / "else.yaml", {"base": "tiny.yaml", "name": "other", "data": {"root": "elsewhere", "flip": 0}}
        )
        with pytest.raises(SegkdError, match=r"tiny and other cannot be compared: their data.root is None and 'else"):
            configs(experiment, "tiny", "else")

    def test_another_split(self, experiment: Path):
        write(experiment / "split.yaml", {"base": "tiny.yaml", "name": "other", "data": {"val_split": "train"}})
        with pytest.raises(SegkdError, match="validation split is 'val' and 'train'"):
            configs(experiment, "tiny", "split")

    def test_another_task(self, experiment: Path):
        make_detection_experiment(experiment / "detection")
        with pytest.raises(SegkdError, match="their task is 'segmentation' and 'detection'"):
            configs(experiment, "distilled", "detection/tiny")


class TestJobs:
    def test_every_method_with_the_first_seed_comes_first(self, experiment: Path):
        jobs = make_jobs(configs(experiment, "tiny", "distilled"), 2, {"tiny": 3, "distilled": 2})
        assert [(job.method, job.config.name, job.config.seed, job.config.trainer.max_steps) for job in jobs] == [
            ("tiny", "tiny_seed0", 0, 3),
            ("distilled", "distilled_seed0", 0, 2),
            ("tiny", "tiny_seed1", 1, 3),
            ("distilled", "distilled_seed1", 1, 2),
        ]
        assert jobs[0].run.directory == experiment / "out" / "tiny_seed0"

    def test_two_that_the_budget_makes_the_same(self, experiment: Path):
        write(experiment / "long.yaml", {"base": "tiny.yaml", "name": "long", "trainer": {"max_steps": 6}})
        methods = configs(experiment, "tiny", "long")
        assert len(make_jobs(methods, 2, {"tiny": 3, "long": 2})) == 4
        with pytest.raises(SegkdError, match=r"tiny and long differ in nothing but their number of steps, .* both 5"):
            make_jobs(methods, 2, {"tiny": 5, "long": 5})

    def test_a_teacher_is_trained_once(self, experiment: Path):
        jobs = make_jobs(configs(experiment, "tiny", "distilled"), 3, {"tiny": 4, "distilled": 4})
        (teacher,) = teachers_of(job.config for job in jobs)
        assert teacher.config.name == "teacher"
        assert teacher.run.directory == experiment / "out" / "teacher"
        assert teacher.config.seed == 1

    def test_a_teachers_teacher_comes_before_it(self, experiment: Path):
        write(
            experiment / "third.yaml", {"base": "distilled.yaml", "name": "third", "teacher": {"config": "distilled"}}
        )
        assert [job.config.name for job in teachers_of(configs(experiment, "third"))] == ["teacher", "distilled"]

    def test_a_run_of_another_config_is_in_the_way(self, experiment: Path):
        methods = configs(experiment, "tiny")
        (job,) = make_jobs(methods, 1, {"tiny": 4})
        job.run.create(job.config)
        assert make_jobs(methods, 1, {"tiny": 4})  # the same again goes on
        with pytest.raises(SegkdError, match=r"tiny_seed0 was made with another trainer.max_steps"):
            make_jobs(methods, 1, {"tiny": 5})

    def test_a_teachers_run_of_another_config_is_in_the_way(self, experiment: Path):
        methods = configs(experiment, "distilled")
        other = load_config(str(experiment / "teacher.yaml"), [f"runs={experiment / 'out'}", "optimizer.lr=0.5"])
        teachers_of(methods)[0].run.create(other)
        with pytest.raises(SegkdError, match=r"teacher was made with another optimizer.lr"):
            teachers_of(methods)

    def test_other_files_are_in_the_way(self, experiment: Path):
        write(experiment / "out" / "tiny_seed0" / "notes.txt", "mine")
        with pytest.raises(SegkdError, match="tiny_seed0 holds other files"):
            make_jobs(configs(experiment, "tiny"), 1, {"tiny": 4})
