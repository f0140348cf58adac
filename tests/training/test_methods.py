import inspect
from typing import get_type_hints

import pytest

from segkd import losses
from segkd.detection.crosskd import CrossKDBox, CrossKDClass
from segkd.errors import SegkdError
from segkd.losses import CWD, ICSD
from segkd.training.methods import GROUPS, LOSSES, SCHEDULES, WEIGHTINGS, Method, defaults, make, options_of
from segkd.weighting import RelativeDifficulty


def test_every_loss_module_has_a_name():
    modules = {value for name, value in vars(losses).items() if inspect.isclass(value)} | {CrossKDClass, CrossKDBox}
    assert {method.build for method in LOSSES.values()} == modules


def test_builds_with_the_given_options():
    built = make("loss", LOSSES, "cwd", {"temperature": 2})
    assert isinstance(built, CWD)
    assert built.temperature == 2.0
    assert isinstance(make("loss", LOSSES, "icsd", {}), ICSD)
    weighting = make("pixel weighting", WEIGHTINGS, "rdd", {"threshold": 0.6, "combine": "or"})
    assert isinstance(weighting, RelativeDifficulty)
    assert (weighting.threshold, weighting.combine) == (0.6, "or")
    schedule = make("schedule", SCHEDULES, "linear", {"start": 1, "end": 0})
    assert schedule(0.25) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("cwdd", {}, "there is no loss 'cwdd', did you mean 'cwd'?"),
        ("cwd", {"temprature": 1}, "loss 'cwd' has no option 'temprature', did you mean 'temperature'?"),
        ("cwd", {"temperature": "hot"}, "loss 'cwd', option 'temperature': "),
        ("cwd", {"temperature": None}, "loss 'cwd', option 'temperature': "),
        ("cwd", {"temperature": -1}, "temperature"),
        ("icsd", {"variant": "papre"}, "papre"),
    ],
)
def test_what_does_not_fit(name: str, options: dict, text: str):
    with pytest.raises(SegkdError) as raised:
        make("loss", LOSSES, name, options)
    assert text in str(raised.value)
    assert "\n" not in str(raised.value)


def test_defaults_are_written_as_a_config_writes_them():
    assert defaults(LOSSES["cwd"]).startswith("temperature: 4.0, ignore_index: null")
    assert defaults(SCHEDULES["alw"]).startswith("rise: [task, icsd], fall: [kd]")
    assert defaults(SCHEDULES["linear"]).startswith("start, end, ")


@pytest.mark.parametrize(
    "method", [method for group in GROUPS.values() for method in group.values()], ids=lambda method: method.title
)
def test_the_header_has_the_parameters_of_what_is_built(method: Method):
    """One is read from the source, the other from what is imported."""
    build = method.build
    of_build = build.__init__ if inspect.isclass(build) else build
    assert [str(option) for option in options_of(method.header).values()] == [
        str(option) for option in options_of(build).values()
    ]
    if options_of(build):
        header = method.header
        hints = get_type_hints(header.__init__ if inspect.isclass(header) else header)
        assert hints.items() <= get_type_hints(of_build).items()


def test_each_is_described():
    for group in GROUPS.values():
        for method in group.values():
            assert method.title
            assert method.reads


def test_a_method_without_options_takes_none():
    assert options_of(LOSSES["pkd"].build) == {}
    assert defaults(LOSSES["pkd"]) == ""
    with pytest.raises(SegkdError, match="loss 'pkd' has no option 'size'"):
        make("loss", LOSSES, "pkd", {"size": "student"})
