"""The benchmark of the losses knows every method, and its plain formulas are the methods'."""

import copy
import importlib.util
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from segkd.registry import thing, things

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def losses():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:  # not by its name, which is that of a folder of tests too
        spec = importlib.util.spec_from_file_location("losses_benchmark", ROOT / "benchmarks" / "losses.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def figures(losses: Any, loss: Any, value_of: Any, given: Any) -> list[torch.Tensor | None]:
    torch.manual_seed(1)
    value = value_of(*given.arguments)
    changed = [*given.leaves, *loss.parameters()]
    return [value.detach(), *torch.autograd.grad(value, changed, allow_unused=True)]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "benchmarks" / "plain").glob("*.py")))
def test_a_plain_formula_is_its_methods(name: str, losses: Any):
    method = thing("loss", name)
    variants = [{}, {"variant": "released"}] if name == "icsd" else [{}]
    for kind, options in itertools.product(losses.places.kinds(method), variants):
        loss, given = losses.places.prepared(method, kind, "cpu", 16 if kind == "regions" else 4, **options)
        other = copy.deepcopy(loss)  # its queues too
        ours = figures(losses, loss, loss, given)
        plain = figures(losses, other, losses.plain_beside(name, other), given)
        for a, b in zip(ours, plain, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert (a - b).norm() <= 1e-3 * b.norm() + 1e-7


def test_every_method_has_its_rows(losses: Any):
    cases = losses.every_method()
    assert {case.name for case in cases} == {*things("loss")}
    assert [case.kind for case in cases if case.name == "cwd"] == ["logits", "features"]
    assert [case.kind for case in cases if case.name == "structural"] == ["features", "the FPN"]
    assert [case.kind for case in cases if case.name in ("fgd", "dsd")] == ["a list of places", "pyramid"]


def test_rows_are_written_and_made_anew(tmp_path: Path):
    def run(*names: str) -> None:
        command = [sys.executable, ROOT / "benchmarks" / "losses.py", "--methods", *names, *options]
        subprocess.run(command, check=True, capture_output=True, timeout=200)

    options = ["--shrink", "4", "--repeats", "2", "--output", str(tmp_path / "losses.md")]
    run("cwd", "sp")
    before = (tmp_path / "losses.md").read_text().splitlines()
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in before if line.startswith("| `")]
    assert [row[:2] for row in rows] == [["`cwd`", "4x19x32x64"], ["`cwd`", "4x64x16x32"], ["`sp`", "4x64x16x32"]]
    assert all(float(cell) > 0 for cell in [*rows[0][2:], rows[1][2], rows[2][2]])
    assert rows[2][4:] == ["-", "-", "-"]
    run("sp")
    after = (tmp_path / "losses.md").read_text().splitlines()
    assert after[:3] == before[:3]
    assert after[4].startswith("Then, of some rows: `python benchmarks/losses.py --methods sp --shrink 4")
    assert [line.split(" | ")[0] for line in after if line.startswith("| `")] == ["| `cwd`", "| `cwd`", "| `sp`"]
