"""Students whose module is made by code of one's own: a folder never names it, who opens the folder does."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import segkd
from segkd.errors import SegkdError
from segkd.models.family import Built, Family, ModelBlock
from segkd.models.saved import OwnCode
from segkd.network import Network, Preprocess


class Block(ModelBlock):
    width: int = 4


class Own(Family):
    """A family as one writes it."""

    title = "of one's own"
    block = Block
    kept = ("width",)

    @classmethod
    def build(cls, block, classes, weights=True):
        layers = nn.Sequential(nn.Conv2d(3, block.width, 3, padding=1), nn.Conv2d(block.width, len(classes), 1))
        return Built(layers, Preprocess((0.5,) * 3, (0.25,) * 3), None, {"width": block.width})


NAME = f"{__name__}:Own"


def saved(folder: Path, task: str = "segmentation") -> Network:
    torch.manual_seed(0)
    built = Own.build(Block(width=5), ["a", "b"])
    preprocess = {"mean": built.preprocess.mean, "std": built.preprocess.std}
    of = {"family": NAME, "settings": built.settings, "task": task}
    network = Network(built.module, classes=["a", "b"], **preprocess, **of).eval()
    network.save(folder)
    return network


def test_of_a_family_of_ones_own_it_opens_for_who_names_that(tmp_path):
    network, image = saved(tmp_path), np.zeros((8, 12, 3), np.uint8)
    with pytest.raises(OwnCode, match=r"config\.json: its family '.*:Own' is one's own, which it cannot name"):
        segkd.load_student(tmp_path)
    with pytest.raises(OwnCode):
        segkd.load_student(tmp_path, family="mypkg:Other")
    again = segkd.load_student(tmp_path, family=NAME)
    np.testing.assert_array_equal(again.predict(image), network.predict(image))
    assert again.settings == {"width": 5}


def test_of_a_task_of_ones_own_likewise_and_maps_are_predicted(tmp_path):
    network, image = saved(tmp_path, "depth"), np.zeros((8, 12, 3), np.uint8)
    with pytest.raises(SegkdError, match="expected 'segmentation', got 'depth'"):
        segkd.load_student(tmp_path, family=NAME)
    again = segkd.load_student(tmp_path, family=NAME, task="depth")
    (found,) = again.predict([image])
    with torch.no_grad():
        expected = network(torch.zeros(1, 3, 8, 12))[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "evilcode:Evil"},
        {"family": "evilcode"},
        {"family": "evilcode:"},
        {"family": ":Evil"},
        {"family": ["evilcode:Evil"]},
        {"build": "evilcode:make"},
        {"family": "smp", "settings": {"arch": "Unet", "encoder": "resnet18", "build": "evilcode:make"}},
        {"family": "smp", "settings": {"arch": "evilcode:make", "encoder": "resnet18"}},
        {"family": "smp", "settings": {"arch": "Unet", "encoder": "evilcode:make"}},
        {"family": "smp", "settings": {"arch": "Unet", "encoder": "resnet18", "checkpoint": "/etc/passwd"}},
        {"family": "smp", "settings": {"arch": "Unet", "encoder": "resnet18", "encoder_weights": "imagenet"}},
        {"family": "torchvision", "settings": {"arch": "fcn_resnet50", "weights": "default"}},
    ],
    ids=str,
)
def test_what_a_folder_says_of_code_or_of_places_is_refused_and_nothing_is_imported(
    changes, tmp_path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "evilcode.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "student")
    file = tmp_path / "student/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(SegkdError, match=r"config\.json"):
        segkd.load_student(tmp_path)
    assert "evilcode" not in sys.modules
