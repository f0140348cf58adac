import pytest
import torch
from torchvision.ops import box_iou

from segkd.detection.atss import atss_assign
from segkd.detection.heads import dense_head
from segkd.detection.models import build_detector

BOXES = torch.tensor([[8.0, 8.0, 40.0, 40.0], [30.0, 20.0, 90.0, 88.0], [60.0, 2.0, 92.0, 28.0]])
KINDS = [
    ("retinanet", "max_iou"),
    ("retinanet_v2", "max_iou"),
    ("fcos", None),
    ("gfl", None),
    ("atss", None),
    ("retinanet", "atss"),
]


def composed(arch, assigner, *counts):
    """A detector in training, its input, and what its parts give: targets, outputs, anchors, number a level, sizes."""
    torch.manual_seed(0)
    options = {"out_channels": 64, **({} if assigner is None else {"assigner": assigner})}
    model = build_detector(arch, "mobilenet_v3_small", 3, min_size=96, max_size=160, options=options)
    images = [torch.rand(3, 96 + 16 * index, 112) for index in range(len(counts))]
    targets = [{"boxes": BOXES[:count], "labels": torch.arange(count) + 1} for count in counts]
    image_list, resized = model.transform(images, targets)
    features = list(model.backbone(image_list.tensors).values())
    outputs, anchors = model.head(features), model.anchor_generator(image_list, features)
    cells = [x.shape[-2] * x.shape[-1] for x in features]
    per_level = [n * len(anchors[0]) // sum(cells) for n in cells]
    return model, images, targets, resized, outputs, anchors, per_level, image_list.image_sizes


@pytest.mark.parametrize(("arch", "assigner"), KINDS)
@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (0, 0)], ids=str)
def test_the_parts_give_the_losses_of_the_whole(arch, assigner, counts):
    model, images, targets, resized, outputs, anchors, per_level, sizes = composed(arch, assigner, *counts)
    matched = dense_head(model).match(resized, anchors, per_level, sizes)
    assert [index.shape for index in matched] == [(len(anchors[0]),)] * len(counts)
    assert [int(index.max()) + 1 for index in matched] == list(counts)
    losses, expected = model.head.compute_loss(resized, outputs, anchors, matched), model(images, targets)
    assert losses.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(losses[key], value, rtol=1e-5, atol=1e-5)
        assert value.isfinite()


def test_by_iou():
    model, _, _, resized, _, anchors, per_level, _ = composed("retinanet", "max_iou", 3)
    (matched,) = dense_head(model).match(resized, anchors, per_level)
    best, box = box_iou(resized[0]["boxes"], anchors[0]).max(0)
    torch.testing.assert_close(matched[best >= 0.5], box[best >= 0.5])
    assert set(matched[(best >= 0.4) & (best < 0.5)].tolist()) <= {-2, 0, 1, 2}
    assert (matched == -2).any()
    assert (matched[best < 0.4] == -1).float().mean() > 0.99


def test_fcos_matches_centres_inside_the_box_and_its_range():
    model, _, _, resized, _, anchors, per_level, _ = composed("fcos", None, 3)
    (matched,) = dense_head(model).match(resized, anchors, per_level)
    boxes = resized[0]["boxes"][matched.clamp(min=0)]
    centres = (anchors[0][:, :2] + anchors[0][:, 2:]) / 2
    inside = ((centres > boxes[:, :2]) & (centres < boxes[:, 2:])).all(1)
    assert inside[matched >= 0].all()
    levels = torch.repeat_interleave(torch.arange(5), torch.tensor(per_level))
    assert levels[matched == 0].unique().tolist() == [0]  # sides below 64 pixels from the centre: P3
    assert (matched[levels >= 2] == -1).all()


@pytest.mark.parametrize(("arch", "assigner"), [("gfl", None), ("atss", None), ("retinanet", "atss")])
def test_by_atss(arch, assigner):
    model, _, _, resized, _, anchors, per_level, _ = composed(arch, assigner, 3, 0)
    first, second = dense_head(model).match(resized, anchors, per_level)
    assert torch.equal(first, atss_assign(anchors[0], per_level, resized[0]["boxes"]))
    assert (second == -1).all()


def test_the_detector_is_left_as_it_is():
    model, _, _, resized, _, anchors, per_level, _ = composed("fcos", None, 1)
    head, attributes = model.head, dict(vars(model))
    dense_head(model).match(resized, anchors, per_level)
    assert model.head is head
    assert vars(model) == attributes
