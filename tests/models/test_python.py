"""Models of the user's own: what a config names is imported and called, and nothing but a config names it."""

import json

import pytest
import torch
from builds import CLASSES, build, network, pictures, train_step
from torch import nn

from segkd.errors import SegkdError
from segkd.models.python import Python
from segkd.models.saved import load_student
from segkd.network import Network

OWN = """
import torch

def make(width=4, num_classes=2):
    first, last = torch.nn.Conv2d(3, width, 3, padding=1), torch.nn.Conv2d(width, num_classes, 1)
    return torch.nn.Sequential(first, torch.nn.ReLU(), last)

def of_grey(num_classes):
    return torch.nn.Conv2d(3, num_classes, 1), {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}

def backbone():
    return torch.nn.Conv2d(3, 8, 1)

def nothing():
    return "a model"

def fails():
    raise RuntimeError("no such thing\\nof two lines")

number = 3
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "ownmodels.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "ownmodels", raising=False)
    return tmp_path


def test_it_is_told_options_and_the_number_of_classes():
    built = build(Python, build="ownmodels:make", options={"width": 6}, mean=[0.5] * 3, std=[0.5] * 3)
    assert [built.module[0].out_channels, built.module[2].out_channels] == [6, 3]
    assert built.preprocess.mean == (0.5, 0.5, 0.5)
    assert build(Python, None, build="ownmodels:make").module[2].out_channels == 2
    train_step(built, build(Python, build="ownmodels:of_grey"), pictures())


def test_it_may_say_what_its_images_are_and_have_no_classes():
    assert build(Python, build="ownmodels:of_grey").preprocess.std == (0.2, 0.2, 0.2)
    assert build(Python, None, build="ownmodels:backbone", features=True).features
    assert build(Python, build="torch.nn:Conv2d", options={"in_channels": 3, "out_channels": 3, "kernel_size": 1})


def test_its_folder_names_no_code_and_is_opened_with_it(own):
    built = build(Python, build="ownmodels:make", options={"width": 6}, white=255, multiple=2)
    student = network(built, CLASSES).eval()
    saved = Network(built.module, white=255, multiple=2, classes=CLASSES, family="python", settings=built.settings)
    saved.save(own / "student")
    assert "ownmodels" not in (own / "student/config.json").read_text()
    import ownmodels

    for made in ("ownmodels:make", ownmodels.make):
        again = load_student(own / "student", made)
        with torch.no_grad():
            assert torch.equal(again(pictures()), student(pictures()))
        assert again.preprocess == saved.preprocess
    with pytest.raises(SegkdError, match="one's own"):
        load_student(own / "student")
    config = json.loads((own / "student/config.json").read_text())
    config["settings"]["build"] = "ownmodels:fails"
    (own / "student/config.json").write_text(json.dumps(config))
    with pytest.raises(SegkdError, match="there is no key 'build'"):
        load_student(own / "student", "ownmodels:make")


@pytest.mark.parametrize(
    ("block", "texts"),
    [
        ({"build": "ownmodels:mkae"}, ("'ownmodels:mkae'", "has no 'mkae'", "did you mean 'make'?")),
        ({"build": "ownmodel:make"}, ("no module 'ownmodel'", "did you mean 'ownmodels'?")),
        ({"build": "ownmodels:number"}, ("of type int", "neither a class nor a function")),
        ({"build": "ownmodels:nothing"}, ("ownmodels:nothing", "returned no torch.nn.Module but str")),
        ({"build": "ownmodels:fails"}, ("ownmodels:fails", "RuntimeError: no such thing")),
        (
            {"build": "ownmodels:make", "options": {"wdith": 2}},
            ("ownmodels:make", "unexpected keyword argument 'wdith'"),
        ),
        ({}, ("build is missing",)),
    ],
)
def test_refusals(block, texts):
    with pytest.raises(SegkdError) as error:
        build(Python, **block)
    assert "\n" not in str(error.value)
    assert all(text in str(error.value) for text in texts), error.value


def test_a_name_without_a_colon_is_refused_when_the_config_is_read():
    with pytest.raises(ValueError, match=r"package\.module:name"):
        Python.block(build="ownmodels.make")


def test_weights_of_another_model_are_refused_in_one_line(own):
    torch.save(nn.Conv2d(3, 3, 1).state_dict(), own / "other.pth")
    with pytest.raises(SegkdError, match=r"other\.pth is not of this Sequential: it lacks"):
        Python.load(build(Python, build="ownmodels:make").module, own / "other.pth")
