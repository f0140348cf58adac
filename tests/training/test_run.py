import os
from pathlib import Path
from typing import Any

import pytest
from experiments import TINY

from segkd.errors import SegkdError
from segkd.training.distill import TermBlock
from segkd.training.run import Run, changed_keys, settings
from segkd.training.segmentation.schema import SegmentationConfig
from segkd.training.tasks import config_type


@pytest.fixture
def config() -> SegmentationConfig:
    content = {**TINY, "data": {"dataset": "camvid", "crop": [8, 8]}}
    return config_type(content).model_validate(content)


def error(call: Any, *arguments: Any) -> str:
    with pytest.raises(SegkdError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_of_a_config(config: SegmentationConfig):
    assert Run.of(config).directory == Path("runs/tiny")


def test_created_then_read(tmp_path: Path, config: SegmentationConfig):
    run = Run(tmp_path / "deep" / "run")
    run.create(config)
    assert run.config() == config
    assert run.config(["seed=9"]).seed == 9
    assert not run.finished
    assert not run.begun


def test_finished(tmp_path: Path, config: SegmentationConfig):
    run = Run(tmp_path / "run")
    run.create(config)
    run.finish({"a": float("nan"), "b": [1.5, float("nan")], "c": {"d": "text"}})
    assert run.finished
    assert run.result() == {"a": None, "b": [1.5, None], "c": {"d": "text"}}
    assert not list(tmp_path.rglob("*.tmp"))


class TestNothingIsOverwritten:
    def test_a_run_that_was_begun(self, tmp_path: Path, config: SegmentationConfig):
        run = Run(tmp_path / "run")
        run.create(config)
        assert f"segkd train --resume {run.directory}" in error(run.create, config)

    def test_a_finished_run(self, tmp_path: Path, config: SegmentationConfig):
        run = Run(tmp_path / "run")
        run.create(config)
        run.finish({})
        assert "holds a finished run" in error(run.create, config)

    def test_other_files(self, tmp_path: Path, config: SegmentationConfig):
        (tmp_path / "notes.txt").write_text("mine")
        assert "holds other files" in error(Run(tmp_path).create, config)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_an_empty_folder_will_do(self, tmp_path: Path, config: SegmentationConfig):
        Run(tmp_path).create(config)

    @pytest.mark.parametrize("below", ["", "run", "deep/run"])
    def test_a_file_in_the_way(self, tmp_path: Path, config: SegmentationConfig, below: str):
        (tmp_path / "file").write_text("mine")
        message = error(Run(tmp_path / "file" / below).create, config)
        assert f"{tmp_path / 'file'} is a file" in message
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_folder_that_cannot_be_written(self, config: SegmentationConfig):
        message = error(Run("/proc/segkd/run").create, config)
        assert "/proc" in message


class TestReading:
    def test_what_is_no_run(self, tmp_path: Path):
        assert error(Run(tmp_path).config) == f"{tmp_path} is no run directory: it has no config.yaml"

    def test_an_unreadable_result(self, tmp_path: Path):
        run = Run(tmp_path)
        assert str(run.result_file) in error(run.result)
        run.result_file.write_text("{")
        assert str(run.result_file) in error(run.result)


def test_killed_before_it_is_a_run_it_is_in_nobodys_way(
    tmp_path: Path, config: SegmentationConfig, monkeypatch: pytest.MonkeyPatch
):
    run = Run(tmp_path / "run")

    def cut(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", cut)
        with pytest.raises(KeyboardInterrupt):
            run.create(config)
    assert not run.config_file.exists()
    run.create(config)
    assert run.config() == config


def test_settings_name_a_method_without_options(config: SegmentationConfig):
    weighted = config.model_copy(
        update={"distill": config.distill.model_copy(update={"pixel_weighting": {"rdd": None}})}
    )
    assert settings(weighted)["distill.pixel_weighting.rdd"] == "defaults"
    assert changed_keys(config, weighted) == ["distill.pixel_weighting.rdd"]


def test_changed_keys(config: SegmentationConfig):
    other = config.model_copy(update={"seed": 3, "runs": "elsewhere", "trainer": config.trainer.model_copy()})
    other.trainer.threads = 7
    other.trainer.max_steps = 9
    assert changed_keys(config, config) == []
    assert changed_keys(config, other) == ["seed", "trainer.max_steps"]


def test_the_place_of_a_store_makes_no_other_run(config: SegmentationConfig):
    def stored(folder: str) -> SegmentationConfig:
        teacher = {"config": "teacher.yaml", "store": {"folder": folder}}
        return SegmentationConfig.model_validate({**config.model_dump(), "teacher": teacher})

    assert changed_keys(stored("here"), stored("there")) == []


def test_settings_have_a_share_in_place_of_the_weight(config: SegmentationConfig):
    term = TermBlock(loss="cwd", share=2.0)
    shared = config.model_copy(update={"distill": config.distill.model_copy(update={"terms": {"cwd": term}})})
    assert settings(shared)["distill.terms.cwd.share"] == 2.0
    assert "distill.terms.cwd.weight" not in settings(shared)
