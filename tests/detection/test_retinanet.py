import pytest
import torch

from segkd.detection.atss import ATSSRetinaNet
from segkd.detection.models import build_detector

TARGET = {"boxes": torch.tensor([[8.0, 8.0, 72.0, 72.0]]), "labels": torch.tensor([2])}


def parts(arch="retinanet", size=96):
    """The detector, and for one image its targets, features and anchors."""
    torch.manual_seed(0)
    options = {"assigner": "atss", "out_channels": 64}
    model = build_detector(arch, "mobilenet_v3_small", 3, min_size=size, max_size=size, options=options)
    images, targets = model.transform([torch.rand(3, size, size)], [TARGET])
    features = list(model.backbone(images.tensors).values())
    return model, targets, features, model.anchor_generator(images, features)


@pytest.mark.parametrize("arch", ["retinanet", "retinanet_v2"])
def test_one_anchor_per_cell_of_fixed_stride(arch):
    model, _, features, (anchors,) = parts(arch, 80)
    assert type(model) is ATSSRetinaNet
    assert model.head(features)["cls_logits"].shape == (1, len(anchors), 4)
    sides, counts = (anchors[:, 2] - anchors[:, 0]).unique_consecutive(return_counts=True)
    assert sides.tolist() == [64, 128, 256, 512, 1024]
    assert counts.tolist() == [x.shape[-2] * x.shape[-1] for x in features] == [144, 36, 9, 4, 1]


def test_the_loss_is_that_of_the_anchors_which_atss_matches():
    model, targets, _, anchors = parts()
    (exact,) = (anchors[0] == TARGET["boxes"][0]).all(1).nonzero().flatten().tolist()
    logits = torch.full((1, len(anchors[0]), 4), -20.0)
    boxes = TARGET["boxes"].expand(len(anchors[0]), 4)
    outputs = {"cls_logits": logits, "bbox_regression": model.box_coder.encode_single(boxes, anchors[0])[None]}
    losses = model.compute_loss(targets, outputs, anchors)
    # Every anchor predicts the box: those matched are right, though none is sure of the class.
    assert losses["bbox_regression"] < 1e-6
    unsure = losses["classification"]
    assert unsure > 1
    logits[0, exact, 2] = 20.0
    surer = model.compute_loss(targets, outputs, anchors)["classification"]
    assert surer < unsure
    logits[0, -1, 2] = 20.0  # P7's only anchor, far too large
    assert model.compute_loss(targets, outputs, anchors)["classification"] > unsure


def test_it_learns_one_image():
    torch.manual_seed(0)
    model = build_detector(
        "retinanet_v2",
        "mobilenet_v3_small",
        3,
        min_size=96,
        max_size=96,
        options={"assigner": "atss", "out_channels": 64},
    )
    images = [torch.rand(3, 96, 96)]
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(40):
        optimizer.zero_grad()
        sum(model(images, [TARGET]).values()).backward()
        optimizer.step()
    for module in model.modules():  # as in training: so few steps leave no statistics
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    with torch.no_grad():
        (found,) = model.eval()(images)
    assert found["labels"][0] == 2
    assert found["scores"][0] > 0.5
    torch.testing.assert_close(found["boxes"][0], TARGET["boxes"][0], rtol=0, atol=5)
