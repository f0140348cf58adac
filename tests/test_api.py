"""The commands as functions: what they take, return and raise, and that they leave the process as they found it."""

import json
import logging
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from experiments import make_experiment, same, train, weights

import segkd
from segkd.errors import SegkdError
from segkd.training.config import load_config
from segkd.training.run import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment, and `distilled` trained by the function."""
    made = make_experiment(tmp_path_factory.mktemp("api"))
    segkd.train(made / "distilled.yaml", quiet=True)
    return made


@pytest.fixture
def tiny(folder: Path) -> dict[str, Any]:
    """The keys and values of tiny.yaml."""
    content = yaml.safe_load((folder / "tiny.yaml").read_text())
    assert isinstance(content, dict)
    return content


def state() -> list[Any]:
    """Return what a process has only one of."""
    return [
        *(signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)),
        threading.excepthook,
        list(warnings.filters),
        logging.getLogger("pytorch_lightning").level,
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        sys.stdout,
        sys.stderr,
    ]


class TestTrain:
    def test_does_what_the_command_does(self, folder: Path):
        train(folder / "distilled.yaml", "name=commanded")
        ours, theirs = (weights(folder / f"runs/{name}/checkpoints/last.ckpt") for name in ("distilled", "commanded"))
        assert same(ours, theirs)

    def test_returns_what_result_json_holds(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        result = segkd.train(folder / "tiny.yaml", name="shown", trainer={"max_steps": 1})
        assert result == json.loads((folder / "runs/shown/result.json").read_text())
        assert result["steps"] == 1
        assert "shown: training on cpu, 5 images, 1 steps" in capsys.readouterr().out

    def test_quiet_prints_nothing(self, tiny: dict[str, Any], capfd: pytest.CaptureFixture[str]):
        segkd.train(tiny, name="quiet", trainer={"max_steps": 1}, quiet=True)
        assert capfd.readouterr() == ("", "")

    def test_goes_on_with_a_run(self, folder: Path, tiny: dict[str, Any]):
        run = segkd.train(tiny, name="resumed", trainer={"max_steps": 1}, quiet=True)["run"]
        assert segkd.train(resume=run, trainer={"max_steps": 2}, quiet=True)["steps"] == 2
        with pytest.raises(SegkdError, match="cannot go on with another seed"):
            segkd.train(resume=run, seed=3, quiet=True)

    def test_leaves_the_process_as_it_found_it(self, tiny: dict[str, Any]):
        torch.manual_seed(5)
        before = state()
        segkd.train(tiny, name="guest", trainer={"max_steps": 1, "threads": 2}, quiet=True)
        assert state() == before
        with pytest.raises(SegkdError, match="holds a finished run"):
            segkd.train(tiny, name="guest", trainer={"threads": 2}, quiet=True)
        assert state() == before

    def test_runs_in_a_thread(self, tiny: dict[str, Any]):
        results = []
        changes = {"name": "thread", "trainer": {"max_steps": 1}}
        thread = threading.Thread(target=lambda: results.append(segkd.train(tiny, quiet=True, **changes)))
        thread.start()
        thread.join()
        assert results[0]["steps"] == 1


class TestConfig:
    def test_a_file_a_mapping_and_a_config_are_one(self, folder: Path, tiny: dict[str, Any]):
        config = load_config(str(folder / "tiny.yaml"))
        for index, given in enumerate((str(folder / "tiny.yaml"), tiny, config)):
            segkd.train(given, name=f"given{index}", **{"trainer.max_steps": 1}, quiet=True)
            assert Run(folder / f"runs/given{index}").config() == config.model_copy(
                update={"name": f"given{index}", "trainer": config.trainer.model_copy(update={"max_steps": 1})}
            )

    def test_paths_and_tuples_are_as_in_a_file(self, folder: Path, tiny: dict[str, Any]):
        data = {**tiny["data"], "dataset": Path(tiny["data"]["dataset"]), "crop": (64, 96)}
        assert load_config({**tiny, "data": data}) == load_config(str(folder / "tiny.yaml"))

    def test_a_mapping_builds_on_files(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.chdir(folder)
        assert load_config({"base": "tiny.yaml", "seed": 7}).seed == 7

    def test_blocks_are_merged_and_emptied_as_on_the_command_line(self, folder: Path):
        path = str(folder / "distilled.yaml")
        by_keyword = load_config(
            path, {"distill.terms": {"kd": None}, "distill": {"schedule": {}}, "trainer": {"max_steps": 9}}
        )
        assert by_keyword == load_config(path, ["distill.terms.kd=null", "distill.schedule={}", "trainer.max_steps=9"])

    @pytest.mark.parametrize(
        ("config", "changes", "text"),
        [
            ("quickstrat", {}, "did you mean 'quickstart'?"),
            (
                "quickstart",
                {"tariner": {"max_steps": 1}},
                "the keywords: there is no key 'tariner', did you mean 'trai",
            ),
            (
                "quickstart",
                {"trainer": {"max_steps": 0}},
                "the keywords: trainer.max_steps: expected at least 1, got 0",
            ),
            ("quickstart", {"a..b": 1}, "the keywords: 'a..b': a key between two dots is missing"),
            ({"name": "x"}, {}, "the config: the key 'data' is missing"),
            ({"name": "x", "bsae": "y"}, {}, "the config: there is no key 'bsae'"),
            (None, {}, "a config, or resume="),
        ],
    )
    def test_refuses(self, config: Any, changes: dict[str, Any], text: str):
        with pytest.raises(SegkdError) as raised:
            segkd.train(config, **changes)
        assert text in str(raised.value)
        assert "\n" not in str(raised.value)


class TestOthers:
    def test_evaluate(self, folder: Path):
        run = folder / "runs/distilled"
        measured = segkd.evaluate(run, quiet=True)
        assert measured["student"]["miou"] == pytest.approx(Run(run).result()["student"]["miou"])
        assert segkd.evaluate(run, quiet=True, data={"val_split": "train"})["split"] == "train"

    def test_predict(self, folder: Path, tmp_path: Path):
        summary = segkd.predict(
            folder / "runs/distilled", folder / "camvid/val", tmp_path / "out", flip=True, quiet=True
        )
        assert summary.images == len(list((tmp_path / "out/masks").iterdir())) == 3
        with pytest.raises(SegkdError, match="holds other files"):
            segkd.predict(folder / "runs/distilled", [folder / "camvid/val"], tmp_path / "out", quiet=True)

    def test_export(self, folder: Path, tmp_path: Path):
        exported = segkd.export(folder / "runs/distilled", "torchscript", out=tmp_path / "s.pt", quiet=True)
        assert torch.jit.load(exported.path)(torch.zeros(1, 3, 64, 96)).shape == (1, 11, 64, 96)

    @pytest.mark.slow
    def test_compare(self, folder: Path, tiny: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        plain = {**tiny, "name": "plain"}
        other = {**tiny, "name": "focal", "task_loss": "focal"}
        out = tmp_path / "out"
        outcome = segkd.compare([plain, other], seeds=1, out=out, quiet=True, trainer={"max_steps": 1})
        assert capfd.readouterr().out == ""
        assert {name: list(of_seed) for name, of_seed in outcome.results.items()} == {"plain": [0], "focal": [0]}
        assert outcome.results["focal"][0]["student"]["miou"] >= 0
        assert (outcome.failed, outcome.directory) == ([], out)
        assert "focal" in (out / "report.md").read_text()
        assert segkd.compare([out], report_only=True, quiet=True).results == outcome.results
        with pytest.raises(SegkdError, match="as many as seeds= says"):
            segkd.compare([plain], seed=1)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"seeds": 0}, "seeds must be a whole number of at least 1, got 0"),
        ({"seeds": 1.5}, "seeds must be a whole number of at least 1, got 1.5"),
        ({"pictures": -1}, "pictures must be a whole number of at least 0, got -1"),
        ({"pictures": -1, "report_only": True}, "pictures must be a whole number of at least 0, got -1"),
    ],
)
def test_numbers_of_a_comparison_are_checked_as_on_the_command_line(tiny: dict, options: dict, says: str):
    with pytest.raises(SegkdError, match=says):
        segkd.compare([tiny] if "report_only" not in options else ["runs"], **options)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"trials": 0}, "trials must be a whole number of at least 1, got 0"),
        ({"trials": 2.0}, "trials must be a whole number of at least 1, got 2.0"),
        ({"minutes": -1}, "minutes must be a number above 0, got -1"),
        ({"minutes": "5"}, "minutes must be a number above 0, got '5'"),
    ],
)
def test_numbers_of_a_search_likewise(tiny: dict, options: dict, says: str):
    with pytest.raises(SegkdError, match=says):
        segkd.tune(tiny, {"optimizer.lr": "1e-4..1e-2"}, **options)


@pytest.mark.slow
def test_a_script_needs_nothing_but_the_import(folder: Path):
    code = f"""
import sys, segkd
assert "torch" not in sys.modules
result = segkd.train({str(folder / "tiny.yaml")!r}, name="script", trainer={{"max_steps": 1}})
print(result["student"]["step"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1"
    assert done.stderr == ""


@pytest.mark.slow
def test_a_notebook_shows_a_bar(folder: Path):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipywidgets")
    path = str(folder / "tiny.yaml")
    cells = [
        f"import segkd\nresult = segkd.train({path!r}, name='notebook', trainer={{'max_steps': 2}})\nresult['steps']",
        f"segkd.train({path!r}, name='notebook')",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=200, allow_errors=True).execute()
    shown = [output["data"] for output in notebook.cells[0].outputs]
    assert any("application/vnd.jupyter.widget-view+json" in data for data in shown)
    assert shown[-1]["text/plain"] == "2"
    (error,) = (output for output in notebook.cells[1].outputs if output["output_type"] == "error")
    assert error["ename"] == "SegkdError"
