import pytest
import torch
from torch import nn

from segkd.errors import SegkdError
from segkd.models.auxiliary import WithAuxiliary
from segkd.models.smp import build_model


def images(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arch", "encoder", "channels"),
    [("DeepLabV3Plus", "resnet18", 256), ("Unet", "mobilenet_v2", 96), ("PSPNet", "resnet18", 64)],
)
@pytest.mark.parametrize("training", [True, False])
def test_both_heads_have_the_size_of_the_image(arch, encoder, channels, training):
    model = build_model(arch, encoder, 5, auxiliary=True).train(training)
    out = model(images(2, 3, 64, 96))
    assert {key: tuple(value.shape) for key, value in out.items()} == {"out": (2, 5, 64, 96), "aux": (2, 5, 64, 96)}
    assert model.auxiliary[0].in_channels == channels
    assert model.auxiliary[0].out_channels == channels // 4


def test_the_main_logits_are_the_models_own_and_the_encoder_runs_once():
    model = build_model("DeepLabV3Plus", "resnet18", 5, auxiliary=True).eval()
    x = images(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.model(x)
        calls = []
        model.model.encoder.register_forward_hook(lambda *_: calls.append(1))
        out = model(x)
        stage4 = model.model.encoder(x)[-2]
        aux = nn.functional.interpolate(model.auxiliary(stage4), size=(64, 64), mode="bilinear", align_corners=False)
    assert torch.equal(out["out"], expected)
    assert torch.equal(out["aux"], aux)
    assert len(calls) == 2  # one of the forward, one of this test's own


def test_the_auxiliary_loss_trains_the_encoder_up_to_its_stage():
    model = build_model("DeepLabV3Plus", "resnet18", 5, auxiliary=True)
    model(images(2, 3, 64, 64))["aux"].sum().backward()
    assert model.model.encoder.layer3[0].conv1.weight.grad.abs().sum() > 0
    assert model.model.encoder.layer4[0].conv1.weight.grad is None


def test_a_wrong_input_size_is_refused_as_by_the_model():
    with pytest.raises(RuntimeError, match="divisible"):
        build_model("DeepLabV3Plus", "resnet18", 5, auxiliary=True)(images(1, 3, 50, 64))


def test_the_head_alone():
    head = build_model("Unet", "resnet18", 7, auxiliary=True).auxiliary.eval()
    assert head(images(2, 256, 4, 5)).shape == (2, 7, 4, 5)
    assert any(isinstance(module, nn.Dropout) and module.p == 0.1 for module in head)


def test_models_it_cannot_be_put_on():
    with pytest.raises(SegkdError, match="DPT"):
        build_model("DPT", "tu-vit_tiny_patch16_224", 3, auxiliary=True)
    with pytest.raises(SegkdError, match="Conv2d"):
        WithAuxiliary(nn.Conv2d(3, 5, 1), 5)
    with pytest.raises(SegkdError, match="no features"):
        build_model(
            "Unet", "tu-convnext_atto", 3, auxiliary=True, options={"encoder_depth": 2, "decoder_channels": [8, 8]}
        )
