import re

import pytest
import torch
from torchvision.models import detection

from segkd.detection.models import build_detector, load_weights
from segkd.errors import SegkdError
from segkd.models.detectors import settings_of
from segkd.network import Network


def small(arch="retinanet", backbone="mobilenet_v3_small", classes=3, **settings):
    return build_detector(
        arch, backbone, classes, options={"out_channels": 64, **settings.pop("options", {})}, **settings
    )


def same(first, second):
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_every_kind_of_file(tmp_path):
    model = small()
    state = model.state_dict()
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": {f"distiller.student.{key}": value for key, value in state.items()}}, tmp_path / "b.ckpt")
    network = Network(model, classes=list("abc"), task="detection", family="detectors", settings=settings_of(model))
    network.save(tmp_path / "run" / "student")
    for name in ("a.pth", "b.ckpt", "run", "run/student", "run/student/model.safetensors"):
        other = small()
        load_weights(other, tmp_path / name)
        assert same(model, other), name


def in_old_names(key, arch):
    """How torchvision named it when it saved the weights that it publishes; none of them has batch norm's counter."""
    if key.endswith("num_batches_tracked"):
        return None
    key = re.sub(r"((?:inner|layer)_blocks\.\d)\.0\.", r"\1.", key)
    if arch == "retinanet":
        key = re.sub(r"(_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", key)
    key = re.sub(r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv.", key)
    return re.sub(r"mask_head\.(\d)\.0\.", lambda m: f"mask_head.mask_fcn{int(m[1]) + 1}.", key)


@pytest.mark.parametrize(
    ("arch", "builder"),
    [
        ("retinanet", detection.retinanet_resnet50_fpn),
        ("fcos", detection.fcos_resnet50_fpn),
        ("mask_rcnn", detection.maskrcnn_resnet50_fpn),
    ],
)
@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_files_in_torchvisions_old_names(arch, builder, norm, tmp_path):
    theirs = builder(weights=None, weights_backbone=None, num_classes=4)
    old = {in_old_names(key, arch): value for key, value in theirs.state_dict().items()}
    old.pop(None)
    assert old.keys() != theirs.state_dict().keys()
    theirs.load_state_dict(old)  # torchvision itself still takes them
    torch.save(old, tmp_path / "published.pth")
    ours = build_detector(arch, "resnet50", 3, norm=norm)
    load_weights(ours, tmp_path / "published.pth")
    expected = theirs.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in ours.state_dict().items())


@pytest.mark.parametrize(
    "arch", ["retinanet", "retinanet_v2", "fcos", "faster_rcnn", "faster_rcnn_v2", "mask_rcnn", "gfl", "atss"]
)
def test_another_number_of_classes(arch, tmp_path):
    torch.save(small(arch, classes=20).state_dict(), tmp_path / "other.pth")
    model = small(arch)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(SegkdError, match=r"other.pth does not fit: the file has 20 classes, the model 3 \("):
        load_weights(model, tmp_path / "other.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_other_detectors_and_files(tmp_path):
    torch.save(small("fcos").state_dict(), tmp_path / "fcos.pth")
    torch.save(small(options={"out_channels": 32}).state_dict(), tmp_path / "narrow.pth")
    torch.save(small(options={"assigner": "atss"}).state_dict(), tmp_path / "atss.pth")
    expected = {
        "fcos.pth": r"fcos.pth is not of this RetinaNet: it lacks",
        "narrow.pth": r"narrow.pth is not of this RetinaNet: 'backbone.fpn.* is 32x.* in the file and 64x",
        "atss.pth": r"atss.pth is not of this RetinaNet: .* is 4x64x3x3 in the file and 36x64x3x3",
        "absent.pth": r"absent.pth: no such file",
    }
    for name, text in expected.items():
        with pytest.raises(SegkdError, match=text) as error:
            load_weights(small(), tmp_path / name)
        assert "\n" not in str(error.value)


def test_frozen_and_plain_batch_norm_take_each_others_weights(tmp_path):
    for first, second in (("batch", "frozen"), ("frozen", "batch")):
        model, other = small(norm=first), small(norm=second)
        torch.save(model.state_dict(), tmp_path / "a.pth")
        load_weights(other, tmp_path / "a.pth")
        images = [torch.rand(3, 64, 64)]
        with torch.no_grad():
            expected = model.eval().backbone(images[0][None])["0"]
            torch.testing.assert_close(other.eval().backbone(images[0][None])["0"], expected)
