import os
import urllib.request
from pathlib import Path

import pytest
import timm
import torch
import torchvision

from segkd.detection.backbones import build_backbone
from segkd.errors import SegkdError


def backbone(name, weights, **settings):
    return build_backbone(name, weights, out_channels=16, **settings)


def shared(file):
    data = os.environ.get("SEGKD_DATA")
    path = Path(data or "", "..", "weights", file)
    if not data or not path.is_file():
        pytest.skip(f"SEGKD_DATA is not set, or no {file} beside it")
    return path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("mobilenet_v2", "mobilenet_v2_features.pth"),
        ("tu-tf_efficientnet_lite2", "tf_efficientnet_lite2_features.pth"),
    ],
)
def test_weights_from_published_files(name, file):
    path = shared(file)
    given = torch.load(path, weights_only=True)
    state = backbone(name, path, norm="frozen").body.state_dict()
    assert all(torch.equal(value, given[key]) for key, value in state.items())


def test_weights_from_a_classifier_and_from_a_detector(tmp_path):
    network = torchvision.models.mobilenet_v3_small()
    torch.save(network.state_dict(), tmp_path / "classifier.pth")
    model = backbone("mobilenet_v3_small", tmp_path / "classifier.pth")
    assert torch.equal(model.body.state_dict()["features.0.0.weight"], network.features[0][0].weight)
    torch.save({f"backbone.{key}": value for key, value in model.state_dict().items()}, tmp_path / "detector.pth")
    again = backbone("mobilenet_v3_small", tmp_path / "detector.pth").body.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in model.body.state_dict().items())


def test_timms_names_are_found_too(tmp_path):
    network = timm.create_model("convnext_atto")
    torch.save(network.state_dict(), tmp_path / "timm.pth")
    model = backbone("tu-convnext_atto", tmp_path / "timm.pth")
    assert torch.equal(model.body.stem_0.weight, network.stem[0].weight)


def test_weights_of_another_network(tmp_path):
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "deep.pth")
    with pytest.raises(SegkdError, match=r"deep.pth does not fit backbone 'resnet18': .* first unexpected layer1\.2"):
        backbone("resnet18", tmp_path / "deep.pth")
    with pytest.raises(SegkdError, match=r"absent.pth: no such file"):
        backbone("resnet18", tmp_path / "absent.pth")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty cache of torch's hub, and a proxy that refuses: a closed port of this machine."""
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("name", ["resnet18", "tu-resnet18"])
def test_a_hub_that_cannot_be_reached(name, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub))
    with pytest.raises(SegkdError) as error:
        backbone(name, "default")
    for part in (repr(name), "'default'", "backbone_weights: path/to/file"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("weights", "version"), [("default", "IMAGENET1K_V2"), ("IMAGENET1K_V1", "IMAGENET1K_V1")])
def test_torchvisions_weights_come_from_its_cache(weights, version, hub):
    hub.mkdir(parents=True)
    network = torchvision.models.mobilenet_v2()
    url = torchvision.models.MobileNet_V2_Weights[version].url
    torch.save(network.state_dict(), hub / Path(url).name)
    model = backbone("mobilenet_v2", weights)
    assert torch.equal(model.body.state_dict()["features.0.0.weight"], network.features[0][0].weight)
