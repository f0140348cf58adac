import copy
import math

import pytest
import torch
import torch.nn.functional as F
from detection.figures import LEVEL_SIZES, MAPS, PRIORS
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou

from segkd.detection.atss import atss_assign
from segkd.detection.gfl import distribution_focal_loss
from segkd.detection.gfl_head import GFLHead, paired_iou
from segkd.detection.priors import decode, encode
from segkd.errors import SegkdError

CLASSES = 5
TARGETS = [
    {
        "boxes": torch.tensor([[20.0, 30.0, 120.0, 140.0], [200.0, 60.0, 300.0, 220.0], [60.0, 60.0, 90.0, 84.0]]),
        "labels": torch.tensor([1, 5, 3]),
    },
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    {"boxes": torch.tensor([[0.0, 0.0, 319.0, 255.0]]), "labels": torch.tensor([2])},
]
ANCHORS = [PRIORS] * 3
MATCHED = [atss_assign(PRIORS, LEVEL_SIZES, target["boxes"]) for target in TARGETS]
NOTHING = [torch.full_like(index, -1) for index in MATCHED]


@pytest.fixture
def head() -> GFLHead:
    torch.manual_seed(0)
    head = GFLHead(32, CLASSES, groups=8)
    with torch.no_grad():
        head.scales.copy_(torch.tensor([0.5, 0.8, 1.0, 1.2, 1.5]))
    return head


@pytest.fixture
def features() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 32, rows, columns, generator=generator) for _, rows, columns in MAPS]


def some_outputs(seed: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"cls_logits": (3, len(PRIORS), CLASSES), "bbox_regression": (3, len(PRIORS), 68)}
    return {
        key: torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for key, shape in shapes.items()
    }


class TestForward:
    def test_one_row_per_prior(self, head: GFLHead, features: list[Tensor]) -> None:
        out = head(features)
        assert {key: tuple(value.shape) for key, value in out.items()} == {
            "cls_logits": (3, 1706, CLASSES),
            "bbox_regression": (3, 1706, 68),
        }
        logits = head.class_predictor(head.class_tower(features[1]))
        row, column = 7, 11
        torch.testing.assert_close(out["cls_logits"][:, LEVEL_SIZES[0] + row * 20 + column], logits[:, :, row, column])

    @pytest.mark.parametrize("index", range(5))
    def test_the_towers_can_be_resumed_after_any_block(self, head: GFLHead, features: list[Tensor], index: int) -> None:
        out = head(features)
        assert len(head.class_tower) == len(head.box_tower) == 4
        classes, sides = [], []
        for level, x in enumerate(features):
            reached = head.class_tower[:index](x), head.box_tower[:index](x)
            assert index == 0 or all((feature >= 0).all() for feature in reached)
            classes.append(head.class_predictor(head.class_tower[index:](reached[0])).flatten(2))
            sides.append(head.predict_sides(head.box_tower[index:](reached[1]), level).flatten(2))
        torch.testing.assert_close(torch.cat(classes, 2).transpose(1, 2), out["cls_logits"])
        torch.testing.assert_close(torch.cat(sides, 2).transpose(1, 2), out["bbox_regression"])

    def test_a_block_leaves_what_it_is_given(self, head: GFLHead, features: list[Tensor]) -> None:
        # A block's output is captured for distillation: the next one must not write into it.
        first = head.class_tower[:1](features[0])
        before = first.clone()
        head.class_tower[1:](first)
        assert torch.equal(first, before)

    def test_the_scale_of_a_level_multiplies_its_box_logits_alone(self, head: GFLHead, features: list[Tensor]) -> None:
        out = head(features)
        other = copy.deepcopy(head)
        with torch.no_grad():
            other.scales[1] *= 3
        scaled = other(features)
        assert torch.equal(scaled["cls_logits"], out["cls_logits"])
        factors = torch.ones(1706).split(LEVEL_SIZES)
        factors[1].fill_(3)
        torch.testing.assert_close(scaled["bbox_regression"], out["bbox_regression"] * torch.cat(factors)[:, None])

    def test_starts_with_low_scores_and_small_weights(self, features: list[Tensor]) -> None:
        torch.manual_seed(0)
        head = GFLHead(64, CLASSES)
        assert torch.equal(head.scales, torch.ones(5))
        assert head.class_predictor.bias.tolist() == pytest.approx([-math.log(99)] * CLASSES)
        assert not head.box_predictor.bias.any()
        for tower in (head.class_tower, head.box_tower):
            for block in tower:
                assert block[0].bias is None
                assert block[0].weight.std().item() == pytest.approx(0.01, rel=0.05)
                assert block[1].num_groups == 32
        x = torch.randn(1, 64, 4, 4)
        assert head.class_predictor(head.class_tower(x)).sigmoid().mean().item() == pytest.approx(0.01, rel=0.5)

    def test_box_logits_are_float32_under_autocast(self, head: GFLHead, features: list[Tensor]) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = head(features)
        assert out["cls_logits"].dtype == torch.bfloat16
        assert out["bbox_regression"].dtype == torch.float32
        raw = head.box_predictor(head.box_tower(features[0]))[0, :, 0, 0]
        torch.testing.assert_close(out["bbox_regression"][0, 0], raw * head.scales[0], rtol=0.1, atol=0.01)

    def test_bad_sizes_are_named(self) -> None:
        for channels in (32, 80):
            with pytest.raises(SegkdError, match=f"FPN's {channels} channels must be a multiple of 32 from 64 on"):
                GFLHead(channels, CLASSES)
        with pytest.raises(SegkdError, match="at least 1, got 0"):
            GFLHead(64, 0)


class TestComputeLoss:
    def test_equals_the_definition(self, head: GFLHead) -> None:
        out = some_outputs()
        quality = torch.zeros(3, len(PRIORS), CLASSES, dtype=torch.float64)
        giou, dfl, total = 0.0, 0.0, 0.0
        for image, (target, matched) in enumerate(zip(TARGETS, MATCHED, strict=True)):
            for prior in torch.where(matched >= 0)[0].tolist():
                box = target["boxes"][matched[prior]].double()
                sides = out["bbox_regression"][image, prior]
                predicted = decode(sides, PRIORS[prior])
                label = target["labels"][matched[prior]] - 1
                quality[image, prior, label] = box_iou(predicted[None], box[None]).item()
                v = out["cls_logits"][image, prior].sigmoid().max().item()
                total += v
                giou += v * (1 - generalized_box_iou(predicted[None], box[None])).item()
                for side, y in zip(sides.view(4, 17), encode(box, PRIORS[prior]).clamp(0, 15.9), strict=True):
                    log_p, k = side.log_softmax(0), int(y)
                    dfl -= v * (log_p[k] * (k + 1 - y) + log_p[k + 1] * (y - k)).item() / 4
        positives = [max(1, int((matched >= 0).sum())) for matched in MATCHED]
        assert positives[0] == 27
        assert positives[1] == 1  # an image without boxes
        p = out["cls_logits"].sigmoid()
        qfl = (F.binary_cross_entropy(p, quality, reduction="none") * (p - quality) ** 2).sum() / sum(positives)
        losses = head.compute_loss(TARGETS, out, ANCHORS, MATCHED)
        assert losses["classification"].item() == pytest.approx(qfl.item())
        assert losses["bbox_regression"].item() == pytest.approx(2 * giou / total, rel=1e-6)
        assert losses["distribution"].item() == pytest.approx(0.25 * dfl / total)

    def test_the_normaliser_is_at_least_one(self, head: GFLHead) -> None:
        out = some_outputs()
        with torch.no_grad():
            out["cls_logits"].fill_(-9)
        one = [index.clone() for index in NOTHING]
        prior = int(torch.where(MATCHED[0] == 0)[0][0])
        one[0][prior] = 0
        losses = head.compute_loss(TARGETS, out, ANCHORS, one)
        box = TARGETS[0]["boxes"][:1].double()
        giou = generalized_box_iou(decode(out["bbox_regression"][0, prior], PRIORS[prior])[None], box)
        v = torch.tensor(-9.0).sigmoid()
        assert losses["bbox_regression"].item() == pytest.approx((2 * v * (1 - giou)).item(), rel=1e-5)

    def test_the_box_losses_reach_positives_only_and_the_targets_nothing(self, head: GFLHead) -> None:
        out = some_outputs()
        losses = head.compute_loss(TARGETS, out, ANCHORS, MATCHED)
        positive = torch.stack(MATCHED) >= 0
        for key in ("bbox_regression", "distribution"):
            by_sides, by_classes = torch.autograd.grad(
                losses[key], (out["bbox_regression"], out["cls_logits"]), retain_graph=True, allow_unused=True
            )
            assert by_classes is None  # v is detached
            assert not by_sides[~positive].any()
            assert by_sides[positive].any(1).all()
        by_classes, by_sides = torch.autograd.grad(
            losses["classification"], (out["cls_logits"], out["bbox_regression"]), allow_unused=True
        )
        assert by_sides is None  # and so is the IoU
        assert by_classes.any(2).all()

    def test_without_positives_every_parameter_has_a_finite_gradient(
        self, head: GFLHead, features: list[Tensor]
    ) -> None:
        losses = head.compute_loss(TARGETS, head(features), ANCHORS, NOTHING)
        assert losses["classification"] > 0
        assert losses["bbox_regression"] == losses["distribution"] == 0
        sum(losses.values()).backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any() == name.startswith("class"), name

    def test_sides_further_than_the_last_bin_are_clamped(self, head: GFLHead) -> None:
        # A box of 300 pixels, given to a prior of stride 8: its sides lie up to 19 strides away.
        target = {"boxes": torch.tensor([[0.0, 0.0, 310.0, 250.0]]), "labels": torch.tensor([1])}
        prior = 20 * 40 + 20
        matched = torch.full((len(PRIORS),), -1)
        matched[prior] = 0
        out = {key: value[:1].detach() for key, value in some_outputs().items()}
        distances = encode(target["boxes"][0], PRIORS[prior])
        assert distances[0] > 16
        assert distances[3] < 12
        expected = distribution_focal_loss(
            out["bbox_regression"][0, prior].view(4, 17), torch.tensor([15.9, 15.9, 15.9, distances[3]])
        )
        v = out["cls_logits"][0, prior].sigmoid().max()
        value = head.compute_loss([target], out, [PRIORS], [matched])["distribution"]
        assert value.item() == pytest.approx((0.25 * v * expected / 4).item(), rel=1e-5)

    def test_is_computed_in_float32_under_autocast(self, head: GFLHead) -> None:
        out = {key: value.detach().bfloat16() for key, value in some_outputs().items()}
        wide = {key: value.float() for key, value in out.items()}
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = head.compute_loss(TARGETS, out, ANCHORS, MATCHED)
        assert all(value.dtype == torch.float32 for value in losses.values())
        assert losses == head.compute_loss(TARGETS, wide, ANCHORS, MATCHED)


def test_paired_iou_is_the_diagonal_of_box_iou() -> None:
    generator = torch.Generator().manual_seed(3)
    corners = torch.rand(2, 50, 2, 2, generator=generator, dtype=torch.float64) * 100
    boxes, others = torch.cat([corners.amin(2), corners.amax(2)], -1)
    ious = paired_iou(boxes, others)
    torch.testing.assert_close(ious, box_iou(boxes, others).diagonal())
    assert (ious == 0).any()
    assert (ious > 0.3).any()
    assert paired_iou(boxes, boxes).tolist() == pytest.approx([1.0] * 50)
    assert paired_iou(boxes[:, [0, 1, 0, 1]], boxes).tolist() == [0.0] * 50  # a prediction of no area
