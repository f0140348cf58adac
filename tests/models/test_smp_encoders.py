import pytest
import segmentation_models_pytorch as smp
import timm

from segkd.errors import SegkdError
from segkd.models.smp import check_encoder, normalization

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("encoder", "weights", "expected"),
    [
        ("resnet18", "imagenet", IMAGENET),
        ("mobilenet_v2", None, IMAGENET),
        ("tu-resnet18", None, IMAGENET),
        ("tu-tf_efficientnet_lite2", None, HALF),
        ("timm-tf_efficientnet_lite0", None, HALF),
        ("inceptionv4", "imagenet", HALF),
        ("timm-efficientnet-b0", "imagenet", IMAGENET),
        ("timm-efficientnet-b0", "advprop", HALF),
    ],
)
def test_normalization_is_what_the_weights_were_trained_with(encoder, weights, expected):
    assert normalization(encoder, weights) == expected


def test_normalization_of_ports_agrees_with_timm():
    for ours, theirs in (
        ("dpn68", "dpn68"),
        ("inceptionresnetv2", "inception_resnet_v2"),
        ("xception", "legacy_xception"),
    ):
        described = timm.get_pretrained_cfg(theirs)
        assert normalization(ours) == (described.mean, described.std)


def test_normalization_exists_for_every_encoder():
    for name in smp.encoders.get_encoder_names():
        mean, std = normalization(name)
        assert all(0 < value < 1 for value in (*mean, *std)), name


@pytest.mark.parametrize(
    ("encoder", "weights", "expected"),
    [
        ("ResNet18", None, "'resnet18'"),
        ("mobilenetv3_small_050", None, "'tu-mobilenetv3_small_050'"),
        ("tu-mobilenetv3_smal_050", None, "'tu-mobilenetv3_small_050'"),
        ("tu-resnet18.a1_in1", None, "'tu-resnet18.a1_in1k'"),
        ("resnet18", "imagnet", "'imagenet'"),
        ("tu-resnet18", "advprop", "tu-resnet18.<tag>"),
    ],
)
def test_an_unknown_name_names_the_nearest(encoder, weights, expected):
    with pytest.raises(SegkdError) as error:
        check_encoder(encoder, weights)
    assert expected in str(error.value)
    assert repr(encoder) in str(error.value)
    assert "\n" not in str(error.value)


def test_known_names_pass():
    for encoder, weights in (
        ("resnet18", "imagenet"),
        ("resnet18", "ssl"),
        ("tu-resnet18", True),
        ("tu-resnet18", "x.pth"),
    ):
        check_encoder(encoder, weights)
