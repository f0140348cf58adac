"""What a loss is: its options stand once; its file is all that a new one takes; no name hides a module."""

import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import segkd.losses
from segkd.errors import SegkdError
from segkd.losses import CWD, Loss, PixelKD, base
from segkd.registry import things


class Power(Loss):
    name = "power"
    power: float = 2.0
    scaled: bool = False

    def check(self) -> None:
        if self.power <= 0:
            raise SegkdError(f"power must be above 0, got {self.power}")
        self.scale = torch.nn.Linear(1, 1) if self.scaled else None

    def forward(self, student, teacher, target=None):
        return (student - teacher).abs().pow(self.power).mean()


class Cubic(Power):
    power: float = 3.0


def test_fields_are_constructor_attributes_and_repr():
    assert str(inspect.signature(Power)) == "(power: float = 2.0, scaled: bool = False) -> None"
    assert repr(Power(3.0)) == "Power(power=3.0, scaled=False)"
    assert (Cubic().power, Cubic(scaled=True).scaled) == (3.0, True)
    with pytest.raises(TypeError, match="temperature"):
        Power(temperature=2)


def test_options_are_looked_at_once_when_it_is_made():
    with pytest.raises(SegkdError, match="power must be above 0, got -1"):
        Power(-1)


def test_what_it_makes_in_check_is_trained_and_moves():
    loss = Power(scaled=True)
    assert len(list(loss.parameters())) == 2
    assert {p.dtype for p in loss.double().parameters()} == {torch.float64}
    assert list(Power().parameters()) == []


def test_the_docstring_example_holds():
    assert doctest.testmod(base, raise_on_error=True).attempted == 2


@pytest.mark.parametrize("name", ["icsd", "cwd", "pixel_kd", "pkd", "quality_focal", "distributions"])
def test_the_name_of_a_file_is_a_module(name: str):
    assert inspect.ismodule(getattr(segkd.losses, name))


def test_so_it_is_before_anything_else_was_read():
    code = "import segkd.losses as l; print(l.dkd.DKD is l.DKD, l.grouped_kd.__name__, hasattr(l, '_queue_'))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True", "segkd.losses.grouped_kd", "False"]


def test_dir_has_all_that_can_be_named():
    code = "import segkd.losses as l, segkd.detection.methods as m; print(*dir(l)); print(*dir(m))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    of_losses, of_methods = map(str.split, ran.stdout.splitlines())
    classes = {thing.place.rpartition(":")[2]: thing.place for thing in things("loss").values()}
    assert {name for name, place in classes.items() if place.startswith("segkd.losses")} <= {*of_losses}
    assert {*classes} <= {*of_methods}
    assert {"dkd", "PixelKD", "inter_class_similarity"} <= {*of_losses}
    assert "LayerLoss" not in of_losses


def test_names_by_their_paths():
    import segkd.losses.pixel_kd as module

    assert module.PixelKD is PixelKD
    assert segkd.losses.icsd.inter_class_similarity is segkd.losses.inter_class_similarity
    assert segkd.losses.cwd.CWD is CWD
    with pytest.raises(AttributeError, match="no attribute 'CWDD'"):
        _ = segkd.losses.CWDD


def test_a_new_loss_is_one_file(tmp_path: Path):
    """Beside the others' files, which it does not touch."""
    (tmp_path / "l1.py").write_text(
        "from segkd.losses.base import Loss\n\n\n"
        "class L1(Loss):\n"
        "    def forward(self, student, teacher, target=None):\n"
        "        return (student - teacher).abs().mean()\n"
    )
    code = (
        "import sys, segkd.losses; segkd.losses.__path__.append(sys.argv[1]); from segkd.losses import L1; print(L1())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout == "L1()\n", done.stderr
