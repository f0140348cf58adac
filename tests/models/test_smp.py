import os
import time

import pytest
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from huggingface_hub import constants

from segkd.errors import SegkdError
from segkd.models.auxiliary import WithAuxiliary
from segkd.models.smp import build_model


@pytest.mark.parametrize("arch", ["DeepLabV3Plus", "PSPNet", "Unet"])
@pytest.mark.parametrize("encoder", ["resnet18", "mobilenet_v2", "tu-mobilenetv3_small_050"])
def test_architectures_and_encoders(arch, encoder):
    model = build_model(arch, encoder, 5).eval()
    assert type(model) is getattr(smp, arch)
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 96)).shape == (1, 5, 64, 96)


@pytest.mark.parametrize("arch", [found.__name__ for found in smp.MODEL_ARCHITECTURES_MAPPING.values()])
def test_every_architecture_can_be_named_in_any_case(arch):
    encoder = "tu-vit_tiny_patch16_224" if arch == "DPT" else "resnet18"
    with torch.device("meta"):  # names matter here, not numbers
        assert type(build_model(arch.lower(), encoder, 2)).__name__ == arch


def test_options_reach_the_model():
    model = build_model("DeepLabV3Plus", "resnet18", 5, options={"encoder_output_stride": 8, "decoder_channels": 32})
    assert model.encoder(torch.randn(1, 3, 64, 64))[-1].shape[-1] == 8
    assert model.segmentation_head[0].in_channels == 32


def test_auxiliary_wraps_and_none_does_not():
    assert isinstance(build_model("Unet", "resnet18", 5, auxiliary=True), WithAuxiliary)
    assert not isinstance(build_model("Unet", "resnet18", 5), WithAuxiliary)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("DeepLabV3+", "resnet18", 5), "'deeplabv3plus'"),
        (("nothing", "resnet18", 5), "unetplusplus"),
        (("Unet", "resnet18", 0), "at least one class"),
        (("Unet", "resnet18", 5, None, False, {"decoder_chanels": 1}), "'decoder_channels'"),
        (("Unet", "resnet18", 5, None, False, {"activation": "softmax"}), "no option 'activation'"),
        (("DeepLabV3Plus", "resnet18", 5, None, False, {"encoder_output_stride": 4}), "encoder_output_stride=4"),
        (("DeepLabV3Plus", "vgg11", 5), "'vgg11'"),
        (("Linknet", "mit_b0", 5), "'mit_b0'"),
    ],
)
def test_errors_name_what_was_given_and_what_is_valid(arguments, expected):
    with pytest.raises(SegkdError) as error:
        build_model(*arguments)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_a_hub_that_cannot_be_reached_is_said_quickly(encoder, monkeypatch, tmp_path):
    # A closed port of this machine: refused at once, with or without a network.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(SegkdError) as error:
        build_model("Unet", encoder, 5, "imagenet")
    assert time.monotonic() - start < 8
    assert repr(encoder) in str(error.value)
    assert "encoder_weights: path/to/file" in str(error.value)


def test_weights_in_the_hubs_cache_need_no_hub(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    published = smp.encoders.encoders["resnet18"]["pretrained_settings"]["imagenet"]
    folder = tmp_path / f"models--{published['repo_id'].replace('/', '--')}" / "snapshots" / published["revision"]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    weights = build_model("Unet", "resnet18", 5).encoder.state_dict()
    safetensors.torch.save_file(weights, folder / "model.safetensors")
    loaded = build_model("Unet", "resnet18", 5, "imagenet").encoder.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in weights.items())


def local_weights(name):
    data = os.environ.get("SEGKD_DATA")
    if not data:
        pytest.skip("SEGKD_DATA is not set: no weights beside it")
    path = os.path.join(data, os.pardir, "weights", name)
    if not os.path.isfile(path):
        pytest.skip(f"no {name} beside SEGKD_DATA")
    return path


@pytest.mark.parametrize("arch", ["DeepLabV3Plus", "PSPNet"])
@pytest.mark.parametrize(
    ("encoder", "file", "prefix"),
    [
        ("mobilenet_v2", "mobilenet_v2_features.pth", ""),
        ("tu-tf_efficientnet_lite2", "tf_efficientnet_lite2_features.pth", "model."),
    ],
)
def test_encoder_weights_from_published_files(arch, encoder, file, prefix):
    path = local_weights(file)
    state = build_model(arch, encoder, 5, path).encoder.state_dict()
    given = torch.load(path, weights_only=True)
    # Every tensor of the encoder is the file's; a shallower encoder (PSPNet) holds fewer of them.
    assert all(torch.equal(value, given[key.removeprefix(prefix)]) for key, value in state.items())
