"""What a reader of README and docs has at hand: runs of the shipped configs, tiny, and a shell for the commands."""

import contextlib
import hashlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from experiments import cut_at, segkd
from pages import ROOT
from training.test_shipped_configs import small

from segkd.comparison import same_time, timing, work
from segkd.deployment.formats import FORMATS, Graph, save_onnx
from segkd.resources import resource_dir
from segkd.training.config import dump_config, load_config, shipped_configs
from segkd.training.schema import Config
from segkd.training.tasks import task_of
from segkd.training.teacher import TeacherOf

TINY = {"segmentation": "encoder=tu-test_resnet", "detection": "backbone=tu-test_resnet"}
LAYER = "encoder.model.layer2"
"""Of the tiny encoder, in the place of a layer of the config's own."""
FORCED = {
    "data.limit": 2,  # of the few images that are there some are to be without labels
    "data.workers": 0,
    "student.encoder": "tu-test_resnet",
    "trainer.devices": 1,
    "trainer.max_steps": 2,
    "trainer.threads": 1,
    "teacher.overrides.trainer.max_steps": 2,
    "validation.every": 1,
}
"""What takes the place of a command's own choice, so that it ends soon on any machine."""
SHIPPED = [path.stem for path in shipped_configs()]


def _listed(places: str | list[str]) -> list[str]:
    return [places] if isinstance(places, str) else places


def run_here(place: work.Workplace, config: Config, *asked: str, **_: Any) -> str:
    """Do what `segkd.comparison.work.run_timing` does, without another process."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        timing.main([str(place.written(config)), *asked])
    return "".join(printed.getvalue().splitlines()[-1:])


class Shelf:
    """Trees of the data sets and runs of the shipped configs, tiny and made once.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.onnx = FORMATS["onnx"]
        self.written: dict[str, Any] = {}

    def write_onnx(self, graph: Graph, path: Path) -> None:
        """Write a model as the package does, but the same model once: ``--int8`` begins with what was just written."""
        import onnx

        weights = safetensors.torch.save(graph.network.state_dict())
        key = f"{hashlib.sha256(weights).hexdigest()} {graph.axes}"
        if key not in self.written:
            self.onnx.write(graph, path)
            self.written[key] = onnx.load(path)
        save_onnx(self.written[key], graph.info, path)

    def config(self, name: str) -> Config:
        """Return a shipped config with small models on a tiny tree, two steps long."""
        path = str(resource_dir("configs") / f"{name}.yaml")  # a name may lead to what `write` wrote
        config = load_config(path)
        options = self._smaller(config)
        if config.teacher is not None and config.teacher.config is not None:
            own = self._smaller(load_config(config.teacher.config))
            options += [f"teacher.overrides.{option}" for option in own]
        elif config.teacher is not None:
            weights = self.folder / f"{name}.safetensors"
            options += [f"teacher.{TINY[config.task]}", f"teacher.checkpoint={weights}"]
            teacher = TeacherOf(task_of(load_config(path, options)), "teacher", None)
            safetensors.torch.save_model(teacher.network.module, str(weights))
        if getattr(config.teacher, "auxiliary", None) == "fit":
            options.append("teacher.auxiliary_fit.steps=2")
        for key, term in config.distill.named_terms().items():
            for side in ("student", "teacher"):
                places = getattr(term, side)
                of_tiny = [LAYER if place.startswith("encoder.") else place for place in _listed(places)]
                options += [f"distill.terms.{key}.{side}=[{', '.join(of_tiny)}]"] if LAYER in of_tiny else []
        return load_config(path, options)

    def _smaller(self, config: Config) -> list[str]:
        return [*small(config, self.folder), f"student.{TINY[config.task]}", "validation.every=1"]

    def write(self, name: str, folder: Path) -> None:
        """Write `config` where a command that names the shipped one finds it first."""
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(dump_config(self.config(path.stem)))

    def run(self, name: str, folder: Path) -> None:
        """Put the finished run of a shipped config, and its teacher's, into the folder's runs/."""
        home = self.folder / "trained" / name
        if not home.exists():
            home.mkdir(parents=True)
            self.write(name, home)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(home)
                outcome = segkd("train", name)
            assert outcome.status == 0, outcome.err
        shutil.copytree(home / "runs", folder / "runs", dirs_exist_ok=True)


class Shell:
    """What a reader's shell does with the lines of one block, as far as this test knows.

    Args:
        shelf: see there.
        folder: where the commands run.
    """

    def __init__(self, shelf: Shelf, folder: Path) -> None:
        self.shelf, self.folder = shelf, folder
        self.variables: dict[str, str] = {}
        self.known: dict[str, Callable[[list[str]], None]] = {
            "segkd": self.segkd,
            "pip": self.pip,
            "pytest": self.pytest,
            "tensorboard": self.tensorboard,
            "python": self.python,
            "export": self.export,
        }

    def __call__(self, line: str) -> None:
        """Run one command line; one of a kind that is not known fails."""
        if assigned := re.fullmatch(r"(\w+)=\"([^\"]*)\"", line):
            self.variables[assigned[1]] = assigned[2]
            return
        line = re.sub(r"\$(\w+)", lambda name: self.variables[name[1]], line).removeprefix("time ")
        word, *words = shlex.split(re.sub(r"<[^>]*>", "PLACEHOLDER", line))
        while re.match(r"[A-Z_]+=", word):
            self.export([word])
            word, *words = words
        assert word in self.known, f"this test does not know how to check {line!r}"
        self.known[word](words)

    def segkd(self, words: list[str]) -> None:
        """Run it, the configs that it names small and the runs that it names made."""
        if "--resume" in words:
            self._begin(Path(words[words.index("--resume") + 1]))
        for word in words:
            if Path(word).stem in SHIPPED and "=" not in word and not word.startswith("runs/"):
                self.shelf.write(word, self.folder)
            elif (run := re.match(r"runs/(\w+)", word)) and not Path(word).exists():
                self.shelf.run(run[1], self.folder)
        keys = {word.partition("=")[0] for word in words}
        forced = [f"{key}={value}" for key, value in FORCED.items() if key in keys]
        # Not the 2 steps of the small configs: with another budget the same config is another method.
        for option, value in {"--seeds": "1", "--budget": "3steps", "--trials": "1"}.items():
            forced += [option, value] if option in words else []
        if "--on" in words:  # a cluster takes long to start, and one at an address is not there
            at = words.index("--on")
            assert words[at + 1].startswith("ray"), words
            words = words[:at] + words[at + 2 :]
        with pytest.MonkeyPatch.context() as patch:
            # A comparison starts a process for each run, and for all that it times, which takes longer than these do.
            patch.setattr(work, "run_job", lambda place, job, *_: not segkd("train", place.written(job.config)).status)
            for module in (work, same_time):
                patch.setattr(module, "run_timing", run_here)
            patch.setitem(FORMATS, "onnx", self.shelf.onnx._replace(write=self.shelf.write_onnx))
            outcome = segkd(*words, *forced)
        assert outcome.status == 0, outcome.err or outcome.out[-1000:]

    def _begin(self, run: Path) -> None:
        """Leave the run unfinished, after its first step."""
        if not run.exists():
            self.shelf.run(run.name, self.folder)
        shutil.rmtree(run)
        self.shelf.write(run.name, self.folder)
        with cut_at(1):
            assert segkd("train", run.name).status == 1
        assert (run / "checkpoints" / "last.ckpt").exists()

    def pip(self, words: list[str]) -> None:
        """It installs this checkout, with extras that exist."""
        target = re.fullmatch(r"(\.|segkd)(?:\[([\w,]+)\])?", words[-1])
        assert words[:-1] in (["install"], ["install", "-e"]), words
        assert target, words
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        assert project["name"] == "segkd"
        for extra in filter(None, (target[2] or "").split(",")):
            assert extra in project["optional-dependencies"], extra

    def pytest(self, words: list[str]) -> None:
        """Without arguments it collects these tests."""
        assert words == [], words
        settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
        assert [ROOT / path for path in settings["testpaths"]] == [Path(__file__).parent]

    def tensorboard(self, words: list[str]) -> None:
        """It takes these arguments, and there are events where it looks for them."""
        from tensorboard.program import TensorBoard

        assert TensorBoard().configure(["tensorboard", *words])
        assert list(Path(words[words.index("--logdir") + 1]).rglob("events.out.*")), "no events"

    def python(self, words: list[str]) -> None:
        """The script is there and has these options."""
        script, *options = words
        shown = subprocess.run([sys.executable, ROOT / script, "--help"], capture_output=True, text=True, timeout=300)
        assert shown.returncode == 0, shown.stderr
        assert all(word in shown.stdout for word in options if word.startswith("--"))

    def export(self, words: list[str]) -> None:
        """What it sets is read by the package, its configs, or the libraries below."""
        sources = [*(ROOT / "segkd").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml")]
        for word in words:
            name = word.partition("=")[0]
            is_read = any(name in source.read_text() for source in sources)
            assert is_read or name.startswith(("OMP_", "MALLOC_")), name
