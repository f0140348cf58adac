import functools
from pathlib import Path

import pytest
from torch import nn

from segkd.errors import SegkdError
from segkd.losses import CWD, ICSD
from segkd.registry import thing, things
from segkd.training.options import about, defaults, make
from segkd.weighting import RelativeDifficulty

OWN = """
import functools
from torch import nn

class Mine(nn.Module):
    reads = "aux"
    def __init__(self, power: float = 2.0, *, layer: nn.Module = None, _hidden=1):
        super().__init__()
        if power > 9:
            raise RuntimeError("too much\\nof it")
        self.power = power
    def forward(self, student, teacher, target=None):
        return (student - teacher).abs().pow(self.power).mean()

class Bare(nn.Module):
    pass

class Open:
    def __init__(self, **options):
        self.options = options

class Odd:
    def __init__(self, kind: "no.such.Type" = 1):
        self.kind = kind

def function(student, teacher, target, scale: float = 1.0):
    return (student - teacher).mean() * scale
function.reads = "encoder"

def on_progress(progress, until: float):
    return progress * until

def wide(student_channels, teacher_channels, kernel: int = 1):
    return nn.Conv2d(student_channels, teacher_channels, kernel)

def two(student, teacher):
    return 0

instance = Mine(3.0)
partial = functools.partial(function, scale=3.0)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_things.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return "own_things"


def test_builds_with_the_given_options():
    built = make("loss", "cwd", {"temperature": 2})
    assert isinstance(built, CWD)
    assert built.temperature == 2.0
    assert isinstance(make("loss", "icsd", {}), ICSD)
    weighting = make("weighting", "rdd", {"threshold": 0.6, "combine": "or"})
    assert isinstance(weighting, RelativeDifficulty)
    assert (weighting.threshold, weighting.combine) == (0.6, "or")
    assert make("schedule", "linear", {"start": 1, "end": 0})(0.25) == pytest.approx(0.75)
    assert make("connector", "mlp", {"hidden": 7})(3, 4)[0].out_channels == 7


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("cwdd", {}, "there is no loss 'cwdd', did you mean 'cwd'?"),
        ("cwd", {"temprature": 1}, "loss 'cwd' has no option 'temprature', did you mean 'temperature'?"),
        ("cwd", {"temperature": "hot"}, "loss 'cwd', option 'temperature': "),
        ("cwd", {"temperature": None}, "loss 'cwd', option 'temperature': "),
        ("cwd", {"temperature": -1}, "temperature"),
        ("icsd", {"variant": "papre"}, "papre"),
        ("pkd", {"size": "student"}, "loss 'pkd' has no option 'size'"),
        ("pkd", {"weigth": 6}, "loss 'pkd' has no option 'weigth', did you mean 'weight'?"),
        ("cwd", {"conector": "mlp"}, "loss 'cwd' has no option 'conector', did you mean 'connector'?"),
    ],
)
def test_what_does_not_fit(name: str, options: dict, text: str):
    with pytest.raises(SegkdError) as raised:
        make("loss", name, options)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_key_beside_the_options_is_named_where_it_is_nearest():
    with pytest.raises(SegkdError, match="no option 'scal', did you mean 'scale'"):
        make("task_loss", "dice", {"scal": 0.5})


def test_defaults_are_written_as_a_config_writes_them():
    assert defaults(thing("loss", "cwd")) == "temperature: 4.0, ignore_index: null"
    assert defaults(thing("loss", "pkd")) == ""
    assert defaults(thing("schedule", "alw")) == "rise: [task, icsd], fall: [kd], stages: null"
    assert defaults(thing("schedule", "linear")).startswith("start, end, ")
    assert defaults(thing("connector", "mlp")) == "hidden: null"


def test_every_loss_says_what_it_reads_and_the_weight_with_its_normalisation():
    for loss in things("loss").values():
        said = about(loss)
        assert {"reads", "weight", "paper"} <= said.keys(), loss.name
        assert ": " in said["weight"], loss.name


class TestOwn:
    def test_a_class_is_made_with_its_options(self, own: str):
        built = make("loss", f"{own}:Mine", {"power": 3})
        assert isinstance(built, nn.Module)
        assert (built.power, built.reads) == (3.0, "aux")
        assert make("loss", f"{own}:Mine", {"layer": 7}).power == 2.0  # a type that no config can hold is not checked
        assert make("loss", f"{own}:Open", {"a": 1, "b": [2]}).options == {"a": 1, "b": [2]}
        assert make("loss", f"{own}:Odd", {"kind": 2}).kind == 2

    def test_a_function_is_itself_with_its_options_as_keywords(self, own: str):
        plain, scaled = make("loss", f"{own}:function", {}), make("loss", f"{own}:function", {"scale": 3})
        assert plain.__name__ == scaled.__name__ == "function"
        assert isinstance(scaled, functools.partial)
        assert (scaled.keywords, scaled.reads) == ({"scale": 3.0}, "encoder")
        assert make("schedule", f"{own}:on_progress", {"until": 2})(0.5) == 1.0
        assert make("connector", f"{own}:wide", {"kernel": 3})(2, 5).weight.shape == (5, 2, 3, 3)

    def test_any_other_object_is_itself(self, own: str):
        assert make("loss", f"{own}:instance", {}).power == 3.0
        assert make("loss", f"{own}:partial", {}).keywords == {"scale": 3.0}

    @pytest.mark.parametrize(
        ("kind", "name", "options", "text"),
        [
            ("loss", "Mine", {"powr": 1}, "loss 'own_things:Mine' has no option 'powr', did you mean 'power'?"),
            ("loss", "Mine", {"power": "high"}, "'own_things:Mine', option 'power': expected a number, got 'high'"),
            ("loss", "Mine", {"_hidden": 1}, "no option '_hidden'"),
            ("loss", "Mine", {"power": 10}, "'own_things:Mine' cannot be made: RuntimeError: too much"),
            ("loss", "Bare", {"power": 1}, "has no option 'power'"),
            ("loss", "function", {"target": 1}, "has no option 'target', valid: scale"),
            ("loss", "two", {}, "is called with (student, teacher, target)"),
            ("loss", "instance", {"power": 1}, "is an object, used as it is: it takes no options, got power"),
            ("schedule", "on_progress", {}, "its option 'until' is missing"),
            ("connector", "wide", {"kernel": 1.5}, "option 'kernel': expected a whole number"),
        ],
    )
    def test_what_does_not_fit(self, own: str, kind: str, name: str, options: dict, text: str):
        with pytest.raises(SegkdError) as raised:
            make(kind, f"{own}:{name}", options)
        assert text in str(raised.value)
        assert "\n" not in str(raised.value)
