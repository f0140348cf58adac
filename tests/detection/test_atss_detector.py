import math

import pytest
import torch
from detection.detectors import NO_BOXES
from detection.tiny import TinyFPN, rectangles
from torch import Tensor

from segkd.detection.atss_detector import ATSS, ATSSHead
from segkd.errors import SegkdError

LOSSES = {"classification", "bbox_regression", "bbox_ctrness"}


def detector(**options: object) -> ATSS:
    torch.manual_seed(0)
    return ATSS(TinyFPN(), 2, min_size=128, max_size=256, **options)


def parts(model: ATSS) -> tuple[list[dict[str, Tensor]], dict[str, Tensor], list[Tensor], list[Tensor]]:
    """Return targets, the head's outputs, priors and which box each has."""
    images, targets = model.transform(*rectangles(2))
    features = list(model.backbone(images.tensors).values())
    priors = model.anchor_generator(images, features)
    matched = model.match(targets, priors, [x.shape[-2] * x.shape[-1] for x in features])
    return targets, model.head(features), priors, matched


def test_the_losses_are_focal_giou_and_cross_entropy_of_centerness() -> None:
    model = detector()
    targets, outputs, priors, matched = parts(model)
    losses = model(*rectangles(2))
    count = focal = giou = weights = entropy = 0.0
    for index in range(2):
        boxes = model.head.decode(outputs["bbox_regression"][index], priors[index])
        for n, box_index in enumerate(matched[index].tolist()):
            p = outputs["cls_logits"][index, n].sigmoid()
            own = torch.zeros(2, dtype=torch.bool)
            if box_index >= 0:
                count += 1
                own[targets[index]["labels"][box_index] - 1] = True
                x1, y1, x2, y2 = targets[index]["boxes"][box_index].tolist()
                a1, b1, a2, b2 = boxes[n].tolist()
                x, y = ((priors[index][n, k] + priors[index][n, k + 2]).item() / 2 for k in (0, 1))
                sides = sorted((x - x1, x2 - x)), sorted((y - y1, y2 - y))
                central = math.sqrt(sides[0][0] / sides[0][1] * sides[1][0] / sides[1][1])
                inside = max(min(x2, a2) - max(x1, a1), 0) * max(min(y2, b2) - max(y1, b1), 0)
                union = (x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inside
                hull = (max(x2, a2) - min(x1, a1)) * (max(y2, b2) - min(y1, b1))
                giou += central * (1 - inside / union + (hull - union) / hull)
                weights += central
                z = outputs["bbox_ctrness"][index, n, 0].sigmoid().item()
                entropy -= central * math.log(z) + (1 - central) * math.log(1 - z)
            focal -= (0.25 * (1 - p[own]).square() * p[own].log()).sum().item()
            focal -= (0.75 * p[~own].square() * (1 - p[~own]).log()).sum().item()
    assert count > 6
    expected = {"classification": focal / count, "bbox_regression": 2 * giou / weights, "bbox_ctrness": entropy / count}
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(expected, rel=1e-4)


def test_every_parameter_learns_also_without_boxes() -> None:
    model = detector()
    images, targets = rectangles(2)
    for given in (targets, [targets[0], NO_BOXES], [NO_BOXES] * 2):
        model.zero_grad()
        losses = model(images, given)
        assert set(losses) == LOSSES
        sum(losses.values()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert losses["classification"] > 0
    assert losses["bbox_regression"] == losses["bbox_ctrness"] == 0


def test_a_batchs_padding_is_no_background() -> None:
    images, targets = rectangles(2)
    images[0] = torch.cat([images[0], torch.rand(3, 64, 128)], 1)
    model = detector()
    image_list, resized = model.transform(images, targets)
    features = list(model.backbone(image_list.tensors).values())
    priors, sizes = model.anchor_generator(image_list, features), [x.shape[-2] * x.shape[-1] for x in features]
    out = {key: value.detach().requires_grad_() for key, value in model.head(features).items()}
    sum(model.compute_loss(resized, out, priors, sizes, image_list.image_sizes).values()).backward()
    taught = out["cls_logits"].grad.abs().sum(-1) > 0
    assert taught[0].all()
    assert torch.equal(taught[1], (priors[1][:, 1] + priors[1][:, 3]) / 2 < 128)


def test_a_score_is_the_geometric_mean_of_probability_and_centerness() -> None:
    model = detector(score_thresh=0.5)
    # Of one class two far boxes; the sure one, which is not central, scores less.
    priors = torch.tensor([[18.0, 18, 82, 82], [120, 18, 184, 82], [18, 118, 82, 182]])
    logits = torch.tensor([[0.9, 0.1], [0.64, 0.1], [0.4, 0.1]]).logit()
    outputs = {"cls_logits": logits, "bbox_ctrness": torch.tensor([[0.4], [0.81], [0.5]]).logit()}
    outputs["bbox_regression"] = torch.tensor([[0.0] * 4, [0, 0, 5 * math.log(0.5), 0], [0.0] * 4])
    (found,) = model.postprocess_detections({k: [v[None]] for k, v in outputs.items()}, [[priors]], [(200, 200)])
    torch.testing.assert_close(found["scores"], torch.tensor([0.72, 0.6]))
    torch.testing.assert_close(found["boxes"], torch.tensor([[136.0, 18, 168, 82], [18, 18, 82, 82]]))
    assert found["labels"].tolist() == [1, 1]


def test_channels_that_its_groups_do_not_divide() -> None:
    with pytest.raises(SegkdError, match=r"ATSSHead normalises in 32 groups .* the FPN's 40 channels must be"):
        ATSS(TinyFPN(40), 2)


@pytest.mark.slow
def test_overfits_one_batch() -> None:
    images, targets = rectangles(4)
    model = detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(200):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        for found, target in zip(model.eval()(images), targets, strict=True):
            best = found["boxes"][:3][found["boxes"][:3, 0].argsort()]
            torch.testing.assert_close(best, target["boxes"][target["boxes"][:, 0].argsort()], rtol=0, atol=6)


def test_under_bfloat16_boxes_are_decoded_in_float32() -> None:
    model = detector(score_thresh=0.0).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        (found,) = model(rectangles(1)[0])
    assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    assert isinstance(model.head, ATSSHead)
