import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from segkd.detection.backbones import build_backbone, check_backbone, normalization
from segkd.errors import SegkdError

IMAGES = torch.rand(2, 3, 96, 160, generator=torch.Generator().manual_seed(0))
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)


def backbone(name="mobilenet_v3_small", weights=None, **settings):
    torch.manual_seed(0)
    return build_backbone(name, weights, **{"out_channels": 16, **settings})


def rounded_up(size, stride):
    return -(-size // stride)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "regnet_x_400mf",
        "shufflenet_v2_x0_5",
        "densenet121",
        "swin_t",  # whose maps have their channels last
        "tu-mobilenetv3_small_050",
        "tu-convnext_atto",
    ],
)
@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ("p3_p7", {"0": 8, "1": 16, "2": 32, "p6": 64, "p7": 128}),
        ("p2_p6", {"0": 4, "1": 8, "2": 16, "3": 32, "pool": 64}),
    ],
)
def test_maps_have_their_strides_and_every_parameter_is_used(name, levels, expected):
    model = backbone(name, levels=levels)
    maps = model(IMAGES)
    assert dict(zip(maps, model.strides, strict=True)) == expected
    for key, stride in expected.items():
        assert maps[key].shape == (2, model.out_channels, rounded_up(96, stride), rounded_up(160, stride))
    sum(x.sum() for x in maps.values()).backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


def test_a_level_starts_from_the_deepest_map_of_its_stride():
    model = backbone("mobilenet_v2", levels="p2_p6")
    channels = [block[0].in_channels for block in model.fpn.inner_blocks]
    assert channels == [24, 32, 96, 1280]
    network = torchvision.models.mobilenet_v2()
    network.load_state_dict(model.body.state_dict(), strict=False)
    with torch.no_grad():
        expected = network.eval().features(IMAGES)
        assert torch.equal(model.eval().body(IMAGES)[-1], expected)


def test_maps_with_channels_last_are_turned():
    model = backbone("swin_t", levels="p2_p6").eval()
    last = [channels_last for _, channels_last in model.taken]
    assert last == [True, True, True, False]  # the network itself turns its last one
    with torch.no_grad():
        first = model.body(IMAGES)[0]
        assert first.shape == (2, 24, 40, 96)
        lateral = model.fpn.inner_blocks[0][0]
        seen = []
        lateral.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        model(IMAGES)
    assert torch.equal(seen[0], first.permute(0, 3, 1, 2))


def test_resnet_is_torchvisions_own():
    theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d).eval()
    ours = build_backbone("resnet18", levels="p2_p6").eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        expected, got = theirs(IMAGES), ours(IMAGES)
    assert list(got) == list(expected)
    assert all(torch.equal(got[key], expected[key]) for key in expected)


def test_p6_is_made_from_p5_or_c5():
    from_p5, from_c5 = backbone("resnet18"), backbone("resnet18", p6_from="c5")
    assert from_p5.fpn.extra_blocks.p6.in_channels == 16
    assert from_c5.fpn.extra_blocks.p6.in_channels == 512
    # Also where the numbers of channels do not tell them apart.
    same = backbone("resnet18", p6_from="c5", out_channels=512).eval()
    with torch.no_grad():
        c5 = same.body(IMAGES)[-1]
        assert torch.equal(same(IMAGES)["p6"], same.fpn.extra_blocks.p6(c5))


def test_training_and_statistics_are_as_a_fresh_network_has_them():
    model = backbone("resnet18")
    assert all(module.training for module in model.modules())
    assert model.body.bn1.num_batches_tracked == 0
    assert torch.equal(model.body.bn1.running_mean, torch.zeros(64))


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "tu-efficientnet_lite0"])
def test_frozen_norm_keeps_statistics_and_activations(name):
    plain = backbone(name)
    for _ in range(2):
        plain(IMAGES)  # gives it statistics
    state = plain.state_dict()
    frozen = backbone(name, norm="frozen")
    assert not [module for module in frozen.modules() if isinstance(module, BATCH_NORMS)]
    frozen.load_state_dict(state)
    with torch.no_grad():
        expected, got = plain.eval()(IMAGES), frozen.train()(IMAGES)
    for key in expected:
        torch.testing.assert_close(got[key], expected[key])
    after = frozen.state_dict()
    assert all(torch.equal(state[key], after[key]) for key in after)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "tu-efficientnet_lite0"])
def test_eval_norm_trains_scale_and_shift_but_not_the_statistics(name):
    plain = backbone(name)
    for _ in range(2):
        plain(IMAGES)  # gives it statistics
    state = plain.state_dict()
    model = backbone(name, norm="eval", frozen_stages=1).train()
    model.load_state_dict(state)
    assert dict(model.named_parameters()).keys() == dict(plain.named_parameters()).keys()
    maps = model(IMAGES)
    with torch.no_grad():
        expected = plain.eval()(IMAGES)
    for key in expected:
        torch.testing.assert_close(maps[key], expected[key])
    sum(x.sum() for x in maps.values()).backward()
    learns = {key for key, value in model.named_parameters() if value.grad is not None}
    assert learns == {key for key, value in model.named_parameters() if value.requires_grad}
    scales = [key for key, value in plain.named_parameters() if key.startswith("body.") and value.dim() == 1]
    assert 0 < len(learns & set(scales)) < len(scales)  # all but those of the frozen stages
    # What Lightning does to a model on several GPUs.
    assert not [m for m in nn.SyncBatchNorm.convert_sync_batchnorm(model).modules() if isinstance(m, BATCH_NORMS)]
    after = model.state_dict()
    assert all(torch.equal(state[key], after[key]) for key in after)


def test_frozen_norm_leaves_the_fpns_norm_alone():
    model = backbone("resnet18", norm="frozen", fpn_norm=nn.BatchNorm2d)
    assert isinstance(model.fpn.inner_blocks[0][1], nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("name", "stages", "last"),
    [
        ("resnet18", 1, "body.layer1.1.bn2.bias"),
        ("resnet18", 2, "body.layer2.1.bn2.bias"),
        ("mobilenet_v2", 4, "body.features.18.1.bias"),
        ("tu-resnet18", 1, "body.layer1.1.bn2.bias"),
    ],
)
def test_frozen_stages_are_those_up_to_their_map(name, stages, last):
    model = backbone(name, frozen_stages=stages)
    names = [key for key, _ in model.named_parameters()]
    frozen = [key for key, value in model.named_parameters() if not value.requires_grad]
    assert frozen == names[: names.index(last) + 1]


def test_at_batch_1_a_map_of_one_cell_trains():
    """P7, and with frozen batch norm also C5, of which no statistics could be taken."""
    small = torch.rand(1, 3, 64, 64)
    assert backbone("resnet18")(small)["p7"].shape[-2:] == (1, 1)
    assert backbone("resnet18", norm="frozen")(small[..., :32, :32])["2"].shape[-2:] == (1, 1)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("ResNet18", {}, "did you mean 'resnet18'?"),
        ("mobilenetv3_small_050", {}, "'tu-mobilenetv3_small_050'"),
        ("tu-mobilenetv3_smal_050", {}, "'tu-mobilenetv3_small_050'"),
        ("fcn_resnet50", {}, "no backbone 'fcn_resnet50'"),  # torchvision's, but no classifier
        ("resnet18", {"weights": "imagenet"}, "no weights 'imagenet'"),
        ("resnet18", {"weights": "defalt"}, "'default'"),
        ("tu-resnet18", {"weights": "imagenet"}, "tu-resnet18.<tag>"),
        ("resnet18", {"levels": "p3_p6"}, "'p3_p7'"),
        ("resnet18", {"norm": "group"}, "valid: batch, eval, frozen"),
        ("resnet18", {"p6_from": "p6"}, "'p5'"),
        ("resnet18", {"frozen_stages": 5}, "0, 1, 2, 3, 4"),
        ("resnet18", {"out_channels": 0}, "at least 1"),
        ("vit_b_16", {}, "cannot be cut into maps"),
        ("alexnet", {}, "needs feature maps of strides 8, 16, 32, found: none"),
        ("tu-xcit_nano_12_p16_224", {}, "needs feature maps of strides 8, 16, 32, found: 16"),
        ("tu-vit_tiny_patch16_224", {}, "cannot be cut into maps"),
    ],
)
def test_errors_name_what_was_given_and_what_is_valid(name, settings, expected):
    with pytest.raises(SegkdError) as error:
        backbone(name, **settings)
    assert expected in str(error.value)
    assert repr(name) in str(error.value)
    assert "\n" not in str(error.value)


def test_names_and_normalization():
    for name, weights in (("resnet50", "IMAGENET1K_V1"), ("swin_t", "default"), ("tu-resnet18", "a.pth")):
        check_backbone(name, weights)
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert normalization("resnet50") == normalization("tu-resnet50") == imagenet
    assert normalization("tu-tf_efficientnet_lite2") == ((0.5,) * 3, (0.5,) * 3)
    with pytest.raises(SegkdError, match="'resnet50'"):
        normalization("resnet5")
