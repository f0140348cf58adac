import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

from segkd.detection.gfl import GFL
from segkd.detection.models import ARCHITECTURES, build_detector, detect
from segkd.errors import SegkdError

BUILDERS = {
    "retinanet": detection.retinanet_resnet50_fpn,
    "retinanet_v2": detection.retinanet_resnet50_fpn_v2,
    "fcos": detection.fcos_resnet50_fpn,
    "faster_rcnn": detection.fasterrcnn_resnet50_fpn,
    "faster_rcnn_v2": detection.fasterrcnn_resnet50_fpn_v2,
    "mask_rcnn": detection.maskrcnn_resnet50_fpn,
}
KINDS = [(arch, {}) for arch in ARCHITECTURES] + [
    (arch, {"assigner": "atss"}) for arch in ("retinanet", "retinanet_v2")
]


# Two-stage detectors look at a thousand proposals of an image else.
FEW = {
    "rpn_post_nms_top_n_train": 50,
    "rpn_post_nms_top_n_test": 50,
    "box_batch_size_per_image": 32,
    "box_detections_per_img": 20,
}


def few(arch):
    return FEW if "rcnn" in arch else {}


def small(arch, backbone="mobilenet_v3_small", classes=3, options=None, **settings):
    torch.manual_seed(0)
    settings = {"min_size": 64, "max_size": 128, **settings}
    return build_detector(
        arch, backbone, classes, options={"out_channels": 64, **few(arch), **(options or {})}, **settings
    )


def batch(*counts):
    """Images of different sizes, and as many boxes in each as is said."""
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for index, count in enumerate(counts):
        height, width = 60 + 10 * index, 90 - 10 * index
        corners = torch.rand(count, 2, generator=generator) * 30
        boxes = torch.cat([corners, corners + 10 + torch.rand(count, 2, generator=generator) * 20], 1)
        masks = torch.zeros(count, height, width, dtype=torch.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = 1
        images.append(torch.rand(3, height, width, generator=generator))
        targets.append({"boxes": boxes, "labels": torch.arange(count) % 3 + 1, "masks": masks})
    return images, targets


def train_step(model, images, targets):
    losses = model(images, targets)
    total = sum(losses.values())
    total.backward()
    return losses


def test_every_architecture_is_tried_here():
    assert set(BUILDERS) | {"gfl", "atss"} == set(ARCHITECTURES)


@pytest.mark.parametrize("arch", BUILDERS)
def test_with_resnet50_it_is_torchvisions_model(arch):
    theirs = BUILDERS[arch](
        weights=None, weights_backbone=None, num_classes=4, min_size=64, max_size=128, **few(arch)
    ).eval()
    ours = build_detector(arch, "resnet50", 3, min_size=64, max_size=128, options=few(arch)).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for model in (ours, theirs):
        for holder in (model, getattr(model, "roi_heads", model)):
            holder.score_thresh = 0.0  # random weights are sure of nothing
    images, targets = batch(2)
    with torch.no_grad():
        expected, got = theirs(images)[0], ours(images)[0]
        assert len(expected["boxes"])
        assert got.keys() == expected.keys()
        assert all(torch.equal(value, got[key]) for key, value in expected.items())
        losses = []
        for model in (ours.train(), theirs.train()):
            torch.manual_seed(0)  # two-stage detectors draw proposals
            losses.append(model(images, targets))
    assert losses[0] == losses[1]


def test_gfl_is_ours():
    model = build_detector("gfl", "resnet18", 3)
    assert type(model) is GFL
    assert model.head.num_classes == 3
    assert model.backbone.strides == (8, 16, 32, 64, 128)


@pytest.mark.parametrize(("arch", "options"), KINDS)
def test_a_training_step_is_finite_also_without_boxes(arch, options):
    model = small(arch, options=options)
    for counts in ((2, 3), (2, 0), (0, 0)):
        model.zero_grad()
        losses = train_step(model, *batch(*counts))
        assert all(value.isfinite() and value.shape == () for value in losses.values()), (counts, losses)
        assert all(value.grad.isfinite().all() for value in model.parameters() if value.grad is not None), counts
        # A step without boxes must reach the same parameters, or distributed training hangs.
        reached = {key for key, value in model.named_parameters() if value.grad is not None}
        missed = {key for key, _ in model.named_parameters()} - reached
        assert missed == set(), (counts, sorted(missed)[:3])


@pytest.mark.parametrize(("arch", "options"), KINDS)
def test_predictions(arch, options):
    model = small(arch, options={**options, _threshold(arch): 0.0}).eval()
    images, _ = batch(1, 1)
    with torch.no_grad():
        found = model(images)
    assert len(found) == 2
    for image, prediction in zip(images, found, strict=True):
        boxes, labels, scores = prediction["boxes"], prediction["labels"], prediction["scores"]
        assert len(boxes) == len(labels) == len(scores) > 0
        height, width = image.shape[-2:]
        assert boxes.min() >= 0
        assert boxes[:, 2].max() <= width + 1e-3
        assert boxes[:, 3].max() <= height + 1e-3
        assert labels.dtype == torch.int64
        assert labels.max() <= 3
        assert scores.min() >= 0
        assert scores.max() <= 1


def _threshold(arch):
    return "box_score_thresh" if "rcnn" in arch else "score_thresh"


@pytest.mark.parametrize("arch", ["retinanet", "retinanet_v2", "fcos", "gfl", "atss"])
def test_labels_start_at_1(arch):
    """Of GFL and ATSS always; torchvision's predict background 0 too, but never learn to."""
    model = small(arch, options={"score_thresh": 0.0}).eval()
    name = "class_predictor" if arch in ("gfl", "atss") else "classification_head.cls_logits"
    predictor = model.head.get_submodule(name)
    with torch.no_grad():
        predictor.bias.fill_(-20.0)
        anchors = 9 if arch.startswith("retinanet") else 1
        last = predictor.bias.view(anchors, -1)[:, -1]
        last.fill_(2.0)  # the last class everywhere
        (found,) = model(batch(1)[0])
    assert found["labels"][0] == 3


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_at_batch_1_with_p7_of_one_cell_it_trains(arch):
    model = small(arch)
    images, targets = [torch.rand(3, 64, 64)], batch(1)[1]
    targets[0]["masks"] = targets[0]["masks"][:, :, :64].new_ones(1, 64, 64)
    features = model.backbone(torch.rand(1, 3, 64, 64))
    assert list(features.values())[-1].shape[-2:] == (1, 1)
    assert all(value.isfinite() for value in train_step(model, images, targets).values())


@pytest.mark.parametrize("arch", ["faster_rcnn_v2", "fcos"])
def test_frozen_norm_is_the_backbones(arch):
    model = small(arch, norm="frozen")
    frozen = [module for module in model.backbone.body.modules() if isinstance(module, FrozenBatchNorm2d)]
    assert frozen
    assert not [module for module in model.backbone.body.modules() if isinstance(module, nn.BatchNorm2d)]
    has_own = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert has_own == (arch == "faster_rcnn_v2")


def test_the_setting_of_images_reaches_the_transform():
    model = build_detector(
        "fcos", "resnet18", 2, min_size=[96, 128], max_size=200, normalization=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    )
    assert model.transform.min_size == [96, 128]
    assert model.transform.max_size == 200
    assert (model.transform.image_mean, model.transform.image_std) == ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    timms = build_detector("retinanet", "tu-efficientnet_lite0", 2, options={"out_channels": 32})
    assert timms.transform.image_mean == [0.485, 0.456, 0.406]
    halves = build_detector("retinanet", "tu-tf_efficientnet_lite0", 2, options={"out_channels": 32})
    assert halves.transform.image_mean == halves.transform.image_std == [0.5, 0.5, 0.5]


def test_options_reach_the_model():
    model = small("faster_rcnn_v2", options={"box_nms_thresh": 0.3, "rpn_post_nms_top_n_test": 40, "frozen_stages": 1})
    assert model.roi_heads.nms_thresh == 0.3
    assert model.rpn.post_nms_top_n() == 50
    assert model.eval().rpn.post_nms_top_n() == 40
    assert model.roi_heads.box_head[0][0].out_channels == 64
    assert not next(model.backbone.parameters()).requires_grad
    assert small("gfl", options={"topk_candidates": 7}).topk_candidates == 7
    assert small("retinanet", options={"fg_iou_thresh": 0.6}).proposal_matcher.high_threshold == 0.6


@pytest.mark.parametrize(
    ("arch", "changes", "expected"),
    [
        ("retina_net", {}, "'retinanet'"),
        ("FCOS", {}, "'fcos'"),
        ("yolo", {}, "valid: retinanet"),
        ("fcos", {"num_classes": 0}, "at least one class"),
        ("fcos", {"backbone": "resnet81"}, "no backbone 'resnet81'"),
        ("fcos", {"norm": "group"}, "valid: batch, eval, frozen"),
        ("fcos", {"options": {"score_tresh": 0.1}}, "'score_thresh'"),
        ("fcos", {"options": {"assigner": "atss"}}, "no option 'assigner'"),
        ("fcos", {"options": {"head": 3}}, "no option 'head'"),
        ("fcos", {"options": {"min_size": 3}}, "no option 'min_size'"),
        ("fcos", {"options": {"score_thresh": "0.1"}}, "must be a number, got '0.1'"),
        ("fcos", {"options": {"out_channels": True}}, "must be a whole number, got True"),
        ("fcos", {"options": {"out_channels": 64.0}}, "must be a whole number, got 64.0"),
        ("gfl", {"options": {"per_process": 1}}, "must be true or false, got 1"),
        ("fcos", {"options": {"out_channels": 48}}, "a multiple of 32"),
        ("gfl", {"options": {"out_channels": 32}}, "above it, got 32"),
        ("retinanet_v2", {"options": {"out_channels": 100}}, "got 100"),
        ("retinanet", {"options": {"out_channels": -1}}, "at least 1, got -1"),
        ("retinanet", {"options": {"assigner": "ats"}}, "'atss'"),
        ("retinanet", {"options": {"assigner": "atss", "fg_iou_thresh": 0.6}}, "no option 'fg_iou_thresh'"),
        ("gfl", {"options": {"center_sampling_radius": 1.0}}, "no option 'center_sampling_radius'"),
    ],
)
def test_errors_name_what_was_given_and_what_is_valid(arch, changes, expected):
    with pytest.raises(SegkdError) as error:
        build_detector(**{"arch": arch, "backbone": "resnet18", "num_classes": 2, **changes})
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_background_is_no_detection() -> None:
    class Found(nn.Module):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            labels = torch.tensor([0, 2, 0, 1])
            return [{"boxes": torch.arange(16.0).view(4, 4), "labels": labels, "scores": labels / 4}] * len(images)

    found = detect(Found(), [torch.zeros(3, 8, 8)] * 2)
    assert [image["labels"].tolist() for image in found] == [[2, 1], [2, 1]]
    assert found[0]["boxes"][:, 0].tolist() == [4.0, 12.0]
    assert found[0]["scores"].tolist() == [0.5, 0.25]
