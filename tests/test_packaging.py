"""The wheel holds all that the package needs without a checkout."""

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built and unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", str(ROOT), "--no-deps", "--wheel-dir", str(folder), "--quiet"]
    if importlib.util.find_spec("hatchling") is not None:
        command.append("--no-build-isolation")
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=folder)
    if "No matching distribution found for hatchling" in done.stderr or "No module named pip" in done.stderr:
        pytest.skip("the build backend hatchling is not installed and cannot be had from a package registry")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("segkd-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern)}


@pytest.mark.slow
class TestWheel:
    def test_holds_the_checkouts_configs(self, unpacked: Path) -> None:
        ours = contents(ROOT / "configs", "*.yaml")
        assert {"quickstart.yaml", "_base_/streets.yaml"} <= set(ours)
        assert contents(unpacked / "segkd" / "_configs", "*.yaml") == ours

    def test_holds_the_checkouts_descriptions_of_data_sets(self, unpacked: Path) -> None:
        ours = {path.name: path.read_bytes() for path in (ROOT / "datasets").glob("*.yaml")}
        assert {"streets.yaml", "coco.yaml", "voc_detection.yaml", "bccd.yaml"} <= set(ours)
        assert contents(unpacked / "segkd" / "_datasets", "*.yaml") == ours

    def test_holds_the_packages_files_and_nothing_else(self, unpacked: Path) -> None:
        assert contents(unpacked / "segkd", "*.py") == contents(ROOT / "segkd", "*.py")
        assert (unpacked / "segkd" / "py.typed").exists()
        assert (unpacked / "segkd" / "comparison" / "report.html.j2").exists()
        tops = {path.name for path in unpacked.iterdir()}
        assert {name for name in tops if not name.endswith(".dist-info")} == {"segkd"}

    def test_finds_them_from_an_empty_folder(self, unpacked: Path, tmp_path: Path) -> None:
        code = (
            "import segkd\n"
            "from segkd.resources import resource_dir\n"
            "from segkd.data.description import read_spec\n"
            "from segkd.training.config import load_config\n"
            "print(segkd.__file__, resource_dir('configs'), resource_dir('datasets'), sep='\\n')\n"
            "print(load_config('cityscapes_icsd').name, read_spec('cityscapes').num_classes)\n"
            "print(read_spec('coco').num_classes)\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(unpacked)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path, env=environment
        )
        assert done.returncode == 0, done.stderr
        package, configs, datasets, loaded, classes = done.stdout.splitlines()
        assert Path(package) == unpacked / "segkd" / "__init__.py"
        assert Path(configs) == unpacked / "segkd" / "_configs"
        assert Path(datasets) == unpacked / "segkd" / "_datasets"
        assert (loaded, classes) == ("cityscapes_icsd 19", "80")
        assert list(tmp_path.iterdir()) == []
