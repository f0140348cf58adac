"""The page of methods is what the classes say, and they say what they do."""

import runpy
import sys
from pathlib import Path

import pytest

from segkd.errors import SegkdError
from segkd.registry import things
from segkd.training.methods_table import BEGIN, END, with_methods

ROOT = Path(__file__).parents[2]
PAGE, COSTS = ROOT / "docs" / "methods.md", ROOT / "benchmarks" / "results" / "losses.md"
COMMAND = BEGIN.split("`")[1]


def row(name: str) -> list[str]:
    (found,) = [line for line in PAGE.read_text().splitlines() if line.startswith("| [") and f"`{name}`" in line]
    return found.removeprefix("| ").removesuffix(" |").split(" | ")


def test_the_page_in_docs_is_what_the_command_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = tmp_path / "methods.md"
    before, _, rest = PAGE.read_text().partition(BEGIN)
    page.write_text(before + BEGIN + END + rest.partition(END)[2])
    assert COMMAND == "python -m segkd.training.methods_table docs/methods.md benchmarks/results/losses.md"
    monkeypatch.setattr(sys, "argv", ["methods_table", str(page), str(COSTS)])
    with pytest.warns(RuntimeWarning, match="prior to execution"):  # it is imported above
        runpy.run_module("segkd.training.methods_table", run_name="__main__")
    assert page.read_text() == PAGE.read_text(), COMMAND


@pytest.mark.parametrize("name", [*things("loss"), *things("weighting")])
def test_every_method_has_one_row(name: str):
    cells = row(name)
    assert len(cells) == 9
    assert f"\n### {cells[0].partition(']')[0][1:]}\n" in PAGE.read_text()


def test_rows():
    assert row("ld")[4] == row("crosskd_box")[4] == "FPN maps"  # the head runs on them
    assert row("crosskd_two_stage")[3:5] == ["boxes, the teacher's head", "no"]
    assert row("kdiga")[2:5] == ["logits", "labels, a live teacher", "no"]
    assert row("fgd")[2:6] == ["the FPN of detectors", "boxes", "in one size", "context of both sides, 1x1 convolution"]
    assert row("cwd")[2:6] == ["logits or features", "", "yes", ""]
    assert row("cwd")[6].endswith("MiB at 4x19x128x256")
    assert row("cwd")[8].startswith("CamVid, DeepLabV3+: +2.79 mIoU")
    assert row("crosskd_box")[8].startswith("BCCD, GFL, stored: +2.64 AP")
    assert row("pixel_kd")[8].startswith("CamVid, DeepLabV3+, 367 labels: -0.06 mIoU")
    assert row("mgd")[7].startswith("Cityscapes, DeepLabV3-R18: 73.20 to 76.31 mIoU, with CWD")


def test_refuses_a_page_that_is_another():
    with pytest.raises(SegkdError, match="has no <!-- Written by"):
        with_methods("# Methods\n", "")
    with pytest.raises(SegkdError, match="has no <!-- What is written by hand"):
        with_methods(f"# Methods\n{BEGIN}\n", "")


@pytest.mark.parametrize("name", things("loss"))
def test_a_loss_says_whether_it_trains_something(name: str):
    loss = things("loss")[name].load()
    layers = {"prepare", "make"} & {method for owner in loss.__mro__[:-2] for method in vars(owner)}
    assert bool(getattr(loss, "trains", "")) == bool(layers) or name in ("dsd", "crosskd_box", "crosskd_class")
