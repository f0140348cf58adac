"""Torchvision's segmentation models: heads, weights, and what is said of them."""

import pytest
import torch
import torchvision
from builds import CLASSES, build, expect_exports, expect_same_again, logits, pictures, train_step

from segkd.adapter import read_auxiliary
from segkd.errors import SegkdError
from segkd.models.torchvision import Torchvision

LRASPP, DEEPLAB = "lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    """Weights as torchvision publishes them: of VOC's 21 classes, with auxiliary head."""
    path = tmp_path_factory.mktemp("weights") / "voc.pth"
    model = torchvision.models.get_model(DEEPLAB, weights_backbone=None, num_classes=21, aux_loss=True)
    torch.save(model.state_dict(), path)
    return path


def test_a_student_and_a_teacher_take_a_step_and_are_made_again(tmp_path):
    student, teacher = build(Torchvision, arch=LRASPP), build(Torchvision, arch=DEEPLAB, aux=True)
    assert student.preprocess.mean == (0.485, 0.456, 0.406)
    train_step(student, teacher, pictures())
    expect_same_again(Torchvision, student, CLASSES, pictures())
    again = expect_same_again(Torchvision, teacher, CLASSES, pictures())
    assert read_auxiliary(again.module(pictures())).shape == (2, 3, 64, 96)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [LRASPP, DEEPLAB])
def test_a_file_for_onnx_gives_the_same(arch, tmp_path):
    built = build(Torchvision, arch=arch, aux=arch == DEEPLAB)
    expect_exports(built, tmp_path, pictures(), {0: "batch"})


def test_weights_of_a_whole_model_bring_their_classes(voc):
    built = build(Torchvision, classes=None, arch=DEEPLAB, weights=str(voc), aux=True)
    assert all(map(torch.equal, built.module.state_dict().values(), torch.load(voc, weights_only=True).values()))
    assert logits(built, pictures()).shape[1] == 21
    assert not built.note
    assert build(Torchvision, classes=None, arch=DEEPLAB, weights=str(voc)).module.aux_classifier is None


def test_for_other_classes_the_last_layers_of_the_heads_alone_start_anew(voc):
    built = build(Torchvision, arch=DEEPLAB, weights=str(voc), aux=True)
    given = torch.load(voc, weights_only=True)
    anew = {key for key, value in built.module.state_dict().items() if not torch.equal(value, given[key])}
    heads = {f"{head}.4.{kind}" for head in ("classifier", "aux_classifier") for kind in ("weight", "bias")}
    assert anew == heads
    assert built.note.startswith(f"{DEEPLAB}: its weights are of 21 other classes")


def test_an_auxiliary_head_that_the_weights_lack_is_said(voc, tmp_path):
    given = {key: value for key, value in torch.load(voc, weights_only=True).items() if not key.startswith("aux")}
    torch.save(given, tmp_path / "plain.pth")
    names = [str(i) for i in range(21)]
    built = build(Torchvision, names, arch=DEEPLAB, weights=str(tmp_path / "plain.pth"), aux=True)
    assert "no auxiliary head" in built.note
    assert torch.equal(built.module.classifier[4].weight, given["classifier.4.weight"])


def test_weights_of_the_backbone_alone_come_from_an_image_classifier(tmp_path):
    classifier = torchvision.models.mobilenet_v3_large()
    torch.save(classifier.state_dict(), tmp_path / "backbone.pth")
    built = build(Torchvision, arch=LRASPP, weights=str(tmp_path / "backbone.pth"))
    assert torch.equal(built.module.backbone["0"][0].weight, classifier.features[0][0].weight)


@pytest.mark.parametrize(
    ("block", "texts"),
    [
        ({"arch": "deeplabv3_resnet5"}, ("'deeplabv3_resnet5'", "did you mean 'deeplabv3_resnet50'?")),
        ({"arch": LRASPP, "aux": True}, (LRASPP, "no auxiliary head")),
        ({"arch": LRASPP, "options": {"dilated": True}}, ("no option 'dilated'",)),
        ({"arch": LRASPP, "weights": "defualt"}, ("'defualt'", "did you mean 'default'?")),
        ({"arch": LRASPP, "weights": "no/such.pth"}, ("no/such.pth: no such file",)),
        ({"arch": LRASPP, "weights": "{voc}"}, ("voc.pth", "lacks")),
    ],
)
def test_refusals(block, texts, voc):
    with pytest.raises(SegkdError) as error:
        build(Torchvision, **{key: str(voc) if value == "{voc}" else value for key, value in block.items()})
    assert "\n" not in str(error.value)
    assert all(text in str(error.value) for text in texts), error.value


def test_a_model_that_nothing_gives_classes_is_refused():
    with pytest.raises(SegkdError, match="has no classes of its own: weights: default"):
        build(Torchvision, classes=None, arch=LRASPP)
