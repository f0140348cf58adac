"""What imports what: the core costs nothing beyond torch, nothing imports upward, and importing opens no connection."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import segkd

PACKAGE = Path(segkd.__file__).parent
AREAS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
CORE = sorted(
    path for path in PACKAGE.glob("*.py") if path.name not in ("__init__.py", "__main__.py", "api.py", "cli.py")
)
HEAVY = [
    "albumentations",
    "cv2",
    "lightning",
    "matplotlib",
    "omegaconf",
    "pydantic",
    "pytorch_lightning",
    "rich",
    "scipy",
    "segmentation_models_pytorch",
    "timm",
    "torchvision",
    "typer",
]


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, anywhere in it; of ``from segkd import x`` the module is segkd.x."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} if module == "segkd" else {module}
    return found


def of_segkd(path: Path) -> set[str]:
    return {name for name in imported(path) if name.split(".")[0] == "segkd"}


def starts(names: set[str], *prefixes: str) -> set[str]:
    return {name for name in names if any(name == p or name.startswith(f"{p}.") for p in prefixes)}


def names_of(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(PACKAGE)) for path in paths]


def files(area: str) -> list[Path]:
    found = sorted((PACKAGE / area).rglob("*.py"))
    assert found, area
    return found


BARE = CORE + files("losses") + files("weighting")


class TestLayers:
    def test_these_are_the_areas(self) -> None:
        assert set(AREAS) == {
            "losses",
            "weighting",
            "common",
            "store",
            "models",
            "data",
            "segmentation",
            "detection",
            "training",
            "comparison",
            "deployment",
            "tuning",
            "commands",
        }

    @pytest.mark.parametrize("path", BARE, ids=names_of(BARE))
    def test_core_losses_and_weighting_import_torch_the_standard_library_and_the_core(self, path: Path) -> None:
        roots = {name.split(".")[0] for name in imported(path)}
        assert roots <= {"torch", "segkd", *sys.stdlib_module_names}
        above = (f"segkd.{area}" for area in AREAS if area not in ("losses", "weighting"))
        assert not starts(of_segkd(path), "segkd.cli", *above)

    @pytest.mark.parametrize("path", files("weighting"), ids=names_of(files("weighting")))
    def test_weightings_know_the_losses_and_no_model(self, path: Path) -> None:
        allowed = ("segkd.weighting", "segkd.losses", "segkd.errors")
        assert of_segkd(path) == starts(of_segkd(path), *allowed)

    @pytest.mark.parametrize("path", files("losses"), ids=names_of(files("losses")))
    def test_losses_know_nothing_of_the_core_but_its_error(self, path: Path) -> None:
        assert of_segkd(path) == starts(of_segkd(path), "segkd.losses", "segkd.errors")

    def test_common_knows_the_core_but_neither_losses_nor_what_lies_above(self) -> None:
        for path in files("common"):
            above = starts(of_segkd(path), "segkd.cli", *(f"segkd.{area}" for area in AREAS if area != "common"))
            assert not above, path

    def test_models_know_no_task_and_nothing_above(self) -> None:
        """But for the family of detectors, whose networks stand with the rest of detection, which knows no family."""
        assert not any(starts(of_segkd(path), "segkd.models.detectors") for path in files("detection"))
        for path in files("models"):
            if path.name == "detectors.py":
                continue
            areas = (f"segkd.{area}" for area in AREAS if area not in ("common", "models", "losses"))
            assert not starts(of_segkd(path), "segkd.cli", *areas), path

    def test_data_know_the_core_and_what_is_common_and_nothing_above(self) -> None:
        for path in files("data"):
            areas = (f"segkd.{area}" for area in AREAS if area not in ("common", "data"))
            assert not starts(of_segkd(path), "segkd.cli", *areas), path

    @pytest.mark.parametrize("area", ["segmentation", "detection"])
    def test_tasks_import_neither_upward_nor_each_other(self, area: str) -> None:
        other = {"segmentation": "detection", "detection": "segmentation"}[area]
        for path in files(area):
            above = ("segkd.training", "segkd.comparison", "segkd.deployment", "segkd.commands", "segkd.cli")
            assert not starts(of_segkd(path), *above, f"segkd.{other}"), path

    @pytest.mark.parametrize("area", ["training", "comparison", "deployment"])
    def test_what_uses_training_is_not_imported_by_it_nor_by_each_other(self, area: str) -> None:
        others = {"comparison", "deployment", "tuning"} - {area}
        for path in files(area):
            above = ("segkd.commands", "segkd.cli", *(f"segkd.{other}" for other in others))
            assert not starts(of_segkd(path), *above), path

    def test_tuning_stands_on_comparison(self) -> None:
        for path in files("tuning"):
            assert not starts(of_segkd(path), "segkd.commands", "segkd.cli", "segkd.deployment"), path

    def test_the_package_itself_imports_nothing_before_its_first_use(self) -> None:
        tree = ast.parse((PACKAGE / "__init__.py").read_text())
        assert {node.module for node in tree.body if isinstance(node, ast.ImportFrom)} == {"typing"}

    def test_every_imported_module_of_segkd_exists(self) -> None:
        """So that a rule above cannot hold merely because a module was renamed."""
        for path in PACKAGE.rglob("*.py"):
            for name in of_segkd(path):
                target = PACKAGE.parent / Path(*name.split("."))
                is_module = target.is_dir() or target.with_suffix(".py").exists()
                assert is_module or hasattr(segkd, name.split(".")[1]), f"{path} imports {name}"


def run(code: str) -> str:
    """Run the code in a fresh process and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_core_costs_nothing_beyond_torch_and_sets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    code = (
        "import json, os, sys; from segkd import Distiller, Term, DistillOutput; "
        "from segkd.losses import ICSD, PixelKD, CWD, PKD; from segkd.schedules import Linear, alw; "
        "from segkd.weighting import RelativeDifficulty; "
        "print(json.dumps([os.environ.get('OMP_WAIT_POLICY'), sorted(sys.modules)]))"
    )
    policy, names = json.loads(run(code))
    assert policy is None
    loaded = set(names)
    assert "torch" in loaded
    assert not loaded & set(HEAVY)
    above = (f"segkd.{area}" for area in AREAS if area not in ("losses", "weighting"))
    assert not starts(loaded, "segkd.cli", *above)


MODELS = {"albumentations", "lightning", "pytorch_lightning", "segmentation_models_pytorch", "timm", "torchvision"}


TOLD = [
    ("", 0, "Usage: segkd"),
    ("--version", 0, "segkd"),
    ("train --help", 0, "Usage: segkd train"),
    ("configs", 0, "quickstart"),
    ("methods", 0, "icsd"),
    ("train quickstrat", 2, "did you mean 'quickstart'?"),
    ("train quickstart trainer.max_step=1", 2, "did you mean 'max_steps'?"),
    ("train quickstart trainer.max_steps=0", 2, "trainer.max_steps"),
    ("train quickstart data.dataset=streats", 2, "did you mean 'streets'?"),
    ("train camvid_icsd distill.terms.icsd.loss=icds", 2, "did you mean 'icsd'?"),
    ("train camvid_icsd distill.terms.icsd.temprature=2", 2, "did you mean 'temperature'?"),
    ("train camvid_rdd distill.pixel_weighting.rdd.thresold=1", 2, "did you mean 'threshold'?"),
    ("train bccd_pkd_crosskd distill.terms.class.indx=2", 2, "did you mean 'index'?"),
    ("eval quickstart trainer.max_step=1", 2, "did you mean 'max_steps'?"),
    ("compare quickstart camvid_kd trainer.max_step=1", 2, "did you mean 'max_steps'?"),
    ("tune --help", 0, "best.yaml"),
    ("tune quickstart optimizer.lrr=0.1..1", 2, "did you mean 'lr'?"),
    ("tune quickstart optimizer.lr=1..0.1", 2, "is no range"),
    ("data check quickstart trainer.max_step=1", 2, "did you mean 'max_steps'?"),
    ("data show bccd_plain data.dataset=bcdd", 2, "did you mean 'bccd'?"),
]


@pytest.fixture(scope="module")
def told() -> dict[str, list[Any]]:
    """What each command ended with, said and loaded beyond what those before it had, all in one fresh process."""
    code = f"""
import contextlib, io, json, sys
from segkd import cli

told = {{}}
for arguments in {[arguments for arguments, *_ in TOLD]!r}:
    sys.argv, before = ["segkd", *arguments.split()], set() if not told else set(sys.modules)
    said, status = io.StringIO(), 0
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.main()
    except SystemExit as end:
        status = end.code
    told[arguments] = status, said.getvalue(), sorted(set(sys.modules) - before)
print(json.dumps(told))
"""
    found: dict[str, list[Any]] = json.loads(run(code))
    return found


@pytest.mark.parametrize(("arguments", "status", "says"), TOLD, ids=str)
def test_what_is_told_at_once_loads_neither_torch_nor_models(
    arguments: str, status: int, says: str, told: dict[str, list[Any]]
) -> None:
    ended, said, loaded = told[arguments]
    assert ended == status, said
    assert says in said
    assert not {name.partition(".")[0] for name in loaded} & {"torch", *MODELS}


def test_an_option_out_of_range_is_told_before_the_models_are_loaded() -> None:
    code = """
import json, sys
from segkd.training.config import load_config

try:
    load_config("camvid_cwd", ["distill.terms.cwd.temperature=-1"])
except ValueError as error:
    print(json.dumps([str(error), sorted(sys.modules)]))
"""
    said, loaded = json.loads(run(code))
    assert "temperature must be above 0" in said
    assert not set(loaded) & MODELS


@pytest.mark.slow
def test_importing_every_module_opens_no_connection() -> None:
    code = """
import importlib, json, pkgutil, sys

calls = []
events = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"}
# Python reports each attempt here before it is made, also one whose failure the caller swallows.
sys.addaudithook(lambda event, args: calls.append(event) if event in events else None)
import segkd
names = [module.name for module in pkgutil.walk_packages(segkd.__path__, "segkd.")]
for name in names:
    importlib.import_module(name)
print(json.dumps([names, calls]))
"""
    names, calls = json.loads(run(code))
    assert {"segkd.cli", "segkd.training.train", "segkd.data.transforms", "segkd.detection.metrics"} <= set(names)
    assert calls == []


def test_public_names() -> None:
    of_runs = {"compare", "evaluate", "export", "predict", "train", "tune"}
    assert set(segkd.__all__) == {"DistillOutput", "Distiller", "Term", "load_student", *of_runs}
    assert all(callable(getattr(segkd, name)) for name in segkd.__all__)
    assert issubclass(segkd.Distiller, torch.nn.Module)
    assert isinstance(segkd.__version__, str)
    assert set(segkd.__all__) < set(dir(segkd))
    with pytest.raises(AttributeError, match="no attribute 'load_teacher'"):
        _ = segkd.load_teacher
