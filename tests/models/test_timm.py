"""Timm's networks as teachers of features: what their submodules give becomes maps."""

import dataclasses

import pytest
import timm
import torch
from builds import CLASSES, build, pictures
from torch import nn

from segkd import Distiller, Term
from segkd.errors import SegkdError
from segkd.losses import CWD
from segkd.models.timm import Timm
from segkd.network import Network

# The depth and width of a network that takes no time.
VIT = {"depth": 2, "embed_dim": 16, "num_heads": 2}
SWIN = {"depths": [1, 1, 1, 1], "embed_dim": 8, "num_heads": [1, 1, 2, 2]}


def taken(built, path, images):
    """Return what a submodule gives, as it is and as a map."""
    found = []
    handle = built.module.get_submodule(path).register_forward_hook(lambda module, inputs, output: found.append(output))
    with torch.no_grad():
        built.module.eval()(built.preprocess(images))
    handle.remove()
    return found[0], Timm.as_map(built.module, found[0], tuple(images.shape[-2:]))


@pytest.mark.parametrize(
    ("arch", "options", "path", "prefix", "step", "multiple"),
    [
        ("vit_tiny_patch16_224", VIT, "blocks.1", 1, 16, 16),
        ("vit_small_patch14_reg4_dinov2", VIT, "blocks.0", 5, 14, 14),
        ("vit_small_patch16_dinov3", VIT, "norm", 5, 16, 16),
        ("deit_tiny_distilled_patch16_224", VIT, "blocks.1", 2, 16, 16),
    ],
)
def test_tokens_become_a_map_without_those_that_are_no_place(arch, options, path, prefix, step, multiple):
    built = build(Timm, arch=arch, weights=None, options=options)
    assert built.features
    assert built.classes is None
    assert (built.preprocess.size, built.preprocess.multiple) == (None, multiple)
    height, width = 4 * step, 6 * step
    tokens, found = taken(built, path, pictures(height, width))
    assert tokens.shape == (2, prefix + 24, 16)
    expected = tokens[:, prefix:].reshape(2, 4, 6, 16).permute(0, 3, 1, 2)
    assert torch.equal(found, expected)


def test_channels_that_come_last_are_turned():
    given, found = taken(build(Timm, arch="vit_tiny_patch16_224", weights=None, options=VIT), "patch_embed", pictures())
    assert torch.equal(found, given.permute(0, 3, 1, 2))
    built = build(Timm, arch="swin_tiny_patch4_window7_224", weights=None, options=SWIN)
    for stage, (path, channels) in enumerate((("layers.0", 8), ("layers.1.blocks.0", 16), ("layers.3", 64))):
        given, found = taken(built, path, pictures(64, 96))
        assert found.shape == (2, channels, 16 >> min(stage, 3) if stage < 2 else 2, (24 >> stage) if stage < 2 else 3)
        assert torch.equal(found, given.permute(0, 3, 1, 2))
    built = build(Timm, arch="convnext_atto", weights=None)
    given, found = taken(built, "stages.1", pictures(64, 96))
    assert found is given


def test_a_network_of_one_image_size_says_so():
    built = build(Timm, arch="beit_base_patch16_224", weights=None, options=VIT)
    assert built.preprocess.size == (224, 224)
    described = timm.get_pretrained_cfg("beit_base_patch16_224")
    assert built.preprocess.mean == tuple(described.mean) == (0.5, 0.5, 0.5)


def test_weights_of_a_file_with_or_without_classifier(tmp_path):
    other = timm.create_model("vit_tiny_patch16_224", num_classes=7, **VIT)
    torch.save({"model": other.state_dict()}, tmp_path / "vit.pth")
    built = build(Timm, arch="vit_tiny_patch16_224", weights=str(tmp_path / "vit.pth"), options=VIT)
    assert torch.equal(built.module.blocks[1].mlp.fc1.weight, other.blocks[1].mlp.fc1.weight)
    again = build(Timm, fetch=False, **built.settings)
    again.module.load_state_dict(built.module.state_dict())
    images = pictures(64, 64)
    assert torch.equal(taken(again, "norm", images)[1], taken(built, "norm", images)[1])


@pytest.mark.parametrize(
    ("block", "texts"),
    [
        ({"arch": "vit_tiny_patch16_22"}, ("no timm network", "did you mean")),
        ({"arch": "resnet18", "options": {"depth": 3}}, ("resnet18 cannot be built", "'depth'")),
        ({"arch": "resnet18", "weights": "vit.pth"}, ("vit.pth does not fit network 'resnet18'",)),
        ({"arch": "resnet18", "weights": "no/such.pth"}, ("no/such.pth: no such file",)),
    ],
)
def test_refusals(block, texts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(SegkdError) as error:
        build(
            Timm,
            **{"weights": None, **block}
            | ({"weights": str(tmp_path / "vit.pth")} if "vit.pth" in block.values() else {}),
        )
    assert "\n" not in str(error.value)
    assert all(text in str(error.value) for text in texts), error.value


def test_a_student_learns_from_tokens():
    teacher = build(Timm, arch="vit_tiny_patch16_224", weights=None, options=VIT)
    images = dataclasses.asdict(teacher.preprocess)
    network = Network(teacher.module, **images, as_map=Timm.as_map)
    student = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, len(CLASSES), 1))
    term = Term(CWD(), student="1", teacher="blocks.1", connector="conv1x1")
    distiller = Distiller(student, network, {"f": term}, nn.CrossEntropyLoss(ignore_index=255))
    out = distiller(pictures(), torch.zeros(2, 64, 96, dtype=torch.long))
    out.loss.backward()
    assert out.terms["f"] > 0
    assert student[0].weight.grad.abs().sum() > 0


def test_images_of_a_size_that_patches_do_not_divide_are_resized_to_the_next():
    built = build(Timm, arch="vit_small_patch14_reg4_dinov2", weights=None, options=VIT)
    images = pictures(60, 90)
    tokens, found = taken(built, "blocks.1", images)
    assert found.shape == (2, 16, 5, 7)
    resized = nn.functional.interpolate(images, size=(70, 98), mode="bilinear", align_corners=False)
    assert torch.allclose(taken(built, "blocks.1", resized)[0], tokens, atol=1e-6)
    built = build(Timm, arch="beit_base_patch16_224", weights=None, options=VIT)
    assert taken(built, "blocks.1", images)[1].shape == (2, 16, 14, 14)
