import pytest
import safetensors.torch
import torch

from segkd.errors import SegkdError
from segkd.models.smp import build_model
from segkd.models.smp_files import load_encoder_weights, load_weights
from segkd.network import Network


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def model():
    return build_model("PSPNet", "resnet18", 11)


@pytest.fixture(scope="module")
def with_auxiliary():
    return build_model("PSPNet", "resnet18", 11, auxiliary=True)


def checkpoint(model):
    """What a Lightning checkpoint of a distiller looks like: the student's weights among others."""
    state = {f"distiller.student.{key}": value for key, value in model.state_dict().items()}
    return {"epoch": 3, "state_dict": {**state, "distiller.connectors.pkd.weight": torch.zeros(1)}}


def test_every_kind_of_file(model, tmp_path):
    state = model.state_dict()
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "c.pt")
    torch.save(checkpoint(model), tmp_path / "d.ckpt")
    Network(model, family="smp").save(tmp_path / "run" / "student")
    for name in ("a.safetensors", "b.pth", "c.pt", "d.ckpt", "run", "run/student", "run/student/model.safetensors"):
        other = build_model("PSPNet", "resnet18", 11)
        assert load_weights(other, tmp_path / name) is False
        assert same(model, other), name


def test_the_auxiliary_head_is_loaded_where_the_file_has_it(model, with_auxiliary, tmp_path):
    torch.save(checkpoint(with_auxiliary), tmp_path / "with.ckpt")
    Network(with_auxiliary, family="smp").save(tmp_path / "run" / "student")
    for name in ("with.ckpt", "run"):
        other = build_model("PSPNet", "resnet18", 11, auxiliary=True)
        assert load_weights(other, tmp_path / name) is True
        assert same(with_auxiliary, other), name
    # The other way round: a plain model takes the inner model of such a file.
    plain = build_model("PSPNet", "resnet18", 11)
    assert load_weights(plain, tmp_path / "with.ckpt") is False
    assert same(with_auxiliary.model, plain)


def test_a_file_without_auxiliary_head_leaves_it_and_says_so(model, tmp_path):
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    other = build_model("PSPNet", "resnet18", 11, auxiliary=True)
    before = {key: value.clone() for key, value in other.auxiliary.state_dict().items()}
    assert load_weights(other, tmp_path / "plain.pth") is False
    assert same(model, other.model)
    assert all(torch.equal(value, before[key]) for key, value in other.auxiliary.state_dict().items())


def test_another_number_of_classes(model, tmp_path):
    torch.save(build_model("PSPNet", "resnet18", 19).state_dict(), tmp_path / "other.pth")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SegkdError) as error:
        load_weights(model, tmp_path / "other.pth")
    text = str(error.value)
    assert "the file has 19 classes, the model 11" in text
    for part in ("other.pth", "segmentation_head.0.weight", "19x512x3x3", "11x512x3x3"):
        assert part in text
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_another_architecture_or_encoder(model, tmp_path):
    torch.save(build_model("Unet", "resnet18", 11).state_dict(), tmp_path / "unet.pth")
    with pytest.raises(SegkdError, match=r"unet.pth is not of this PSPNet.*first 'decoder\.psp.*, and has .* others"):
        load_weights(model, tmp_path / "unet.pth")
    torch.save(build_model("PSPNet", "resnet34", 11).state_dict(), tmp_path / "deep.pth")
    with pytest.raises(SegkdError, match=r"deep.pth is not of this PSPNet.*keys that the model lacks.*layer1\.2"):
        load_weights(model, tmp_path / "deep.pth")
    wide = build_model("PSPNet", "resnet18", 11, options={"psp_out_channels": 64})
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    with pytest.raises(SegkdError, match=r"wide.pth is not of this PSPNet: 'decoder.* is .* in the file and .* in the"):
        load_weights(model, tmp_path / "wide.pth")


def test_files_that_are_no_weights(model, tmp_path):
    (tmp_path / "broken.pth").write_bytes(b"not a pickle")
    (tmp_path / "run").mkdir()
    for name in ("broken.pth", "run", "absent.pth"):
        with pytest.raises(SegkdError) as error:
            load_weights(model, tmp_path / name)
        assert name in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18", "tu-convnext_atto"])
def test_encoder_files_in_other_spellings(encoder, tmp_path):
    import timm

    full = timm.create_model(encoder.removeprefix("tu-"))  # with classifier
    torch.save({"state_dict": {f"module.{key}": value for key, value in full.state_dict().items()}}, tmp_path / "c.pth")
    loaded = build_model("FPN", encoder, 3, tmp_path / "c.pth")
    first = next(value for key, value in full.state_dict().items() if value.ndim == 4)
    assert torch.equal(next(value for value in loaded.encoder.parameters() if value.ndim == 4), first)
    # A whole segmentation model gives its encoder.
    torch.save(loaded.state_dict(), tmp_path / "s.pth")
    assert same(build_model("FPN", encoder, 3, tmp_path / "s.pth").encoder, loaded.encoder)


@pytest.mark.parametrize(
    ("given", "first"), [("resnet34", "first unexpected layer1.2"), ("vgg11", "first missing conv1")]
)
def test_a_file_of_another_encoder(given, first, tmp_path):
    torch.save(build_model("Unet", given, 3).encoder.state_dict(), tmp_path / "other.pth")
    with pytest.raises(SegkdError) as error:
        load_encoder_weights(build_model("Unet", "resnet18", 3).encoder, tmp_path / "other.pth", "resnet18")
    assert first in str(error.value)
    assert "other.pth does not fit encoder 'resnet18'" in str(error.value)


def test_a_wider_encoder_is_named_with_both_shapes(tmp_path):
    torch.save(build_model("Unet", "tu-mobilenetv3_small_100", 3).encoder.state_dict(), tmp_path / "wide.pth")
    with pytest.raises(SegkdError, match=r"\d+x\d+x1x1 in the file and \d+x\d+x1x1 in the encoder"):
        build_model("Unet", "tu-mobilenetv3_small_050", 3, tmp_path / "wide.pth")
