import doctest
from collections.abc import Callable
from typing import Any

import pytest
import torch
from detection.tiny import TinyFPN, detector, rectangles
from torch import Tensor, nn

import segkd.detection.gfl
from segkd.detection.atss import atss_assign
from segkd.detection.gfl import GFL
from segkd.errors import SegkdError

LOSSES = {"classification", "bbox_regression", "distribution"}
NO_BOXES = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def gradients(model: GFL, losses: dict[str, Tensor]) -> dict[str, Tensor | None]:
    model.zero_grad()
    sum(losses.values()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


class TestTraining:
    def test_gives_three_finite_losses_that_reach_every_parameter(self) -> None:
        model = detector()
        losses = model(*rectangles(2))
        assert set(losses) == LOSSES
        assert all(value.shape == () and value > 0 and value.isfinite() for value in losses.values())
        for name, grad in gradients(model, losses).items():
            assert grad is not None, name
            assert grad.isfinite().all(), name
            assert grad.any(), name

    def test_is_what_its_parts_give(self) -> None:
        model = detector()
        images, targets = rectangles(2)
        image_list, resized = model.transform(images, targets)
        features = list(model.backbone(image_list.tensors).values())
        anchors = model.anchor_generator(image_list, features)
        sizes = [x.shape[-2] * x.shape[-1] for x in features]
        out = model.head(features)
        expected = model(images, targets)
        torch.testing.assert_close(model.compute_loss(resized, out, anchors, sizes), expected, rtol=0, atol=0)
        matched = model.match(resized, anchors, sizes)
        assert torch.equal(matched[1], atss_assign(anchors[1], sizes, resized[1]["boxes"]))
        torch.testing.assert_close(model.head.compute_loss(resized, out, anchors, matched), expected, rtol=0, atol=0)

    def test_priors_in_a_batchs_padding_take_no_part(self) -> None:
        images, targets = rectangles(2)
        images[0] = torch.cat([images[0], torch.rand(3, 64, 128)], 1)
        model = detector()
        image_list, resized = model.transform(images, targets)
        height, _ = image_list.image_sizes[1]
        assert height % 32 == 0
        assert image_list.tensors.shape[2] > height
        features = list(model.backbone(image_list.tensors).values())
        (priors, _), sizes = model.anchor_generator(image_list, features), [x.shape[-2] * x.shape[-1] for x in features]
        padding = (priors[:, 1] + priors[:, 3]) / 2 >= height
        matched = model.match(resized, [priors] * 2, sizes, image_list.image_sizes)
        assert torch.equal(matched[0], atss_assign(priors, sizes, resized[0]["boxes"]))
        # Of the others each has the box that it has where the image is alone.
        alone, theirs = model.transform(images[1:], targets[1:])
        of_alone = list(model.backbone(alone.tensors).values())
        own = model.anchor_generator(alone, of_alone)
        assert torch.equal(own[0], priors[~padding])
        assert torch.equal(
            model.match(theirs, own, [x.shape[-2] * x.shape[-1] for x in of_alone])[0], matched[1][~padding]
        )
        assert matched[1][padding].unique().tolist() == [-2]

        out = {key: value.detach().requires_grad_() for key, value in model.head(features).items()}
        losses = model.compute_loss(resized, out, [priors] * 2, sizes, image_list.image_sizes)
        torch.testing.assert_close(losses, model(images, targets))
        sum(losses.values()).backward()
        taught = out["cls_logits"].grad.abs().sum(-1)
        assert taught[0].all()
        assert torch.equal(taught[1] > 0, ~padding)

    def test_images_of_several_sizes_and_their_boxes_are_resized(self) -> None:
        images, targets = rectangles(2)
        larger = nn.functional.interpolate(images[1][None], size=(200, 150))[0]
        scale = torch.tensor([150, 200, 150, 200]) / 128
        losses = detector()([images[0], larger], [targets[0], {**targets[1], "boxes": targets[1]["boxes"] * scale}])
        assert all(value.isfinite() for value in losses.values())

    def test_the_given_images_and_targets_stay(self) -> None:
        images, targets = rectangles(1)
        before = images[0].clone(), targets[0]["boxes"].clone()
        GFL(TinyFPN(), 2, min_size=96)(images, targets)
        assert torch.equal(images[0], before[0])
        assert torch.equal(targets[0]["boxes"], before[1])

    def test_one_image_without_boxes(self) -> None:
        images, targets = rectangles(2)
        model = detector()
        losses = model(images, [targets[0], NO_BOXES])
        assert all(value > 0 and value.isfinite() for value in losses.values())

    def test_no_image_has_boxes(self) -> None:
        images, _ = rectangles(2)
        model = detector()
        losses = model(images, [NO_BOXES, NO_BOXES])
        assert losses["classification"] > 0
        assert losses["bbox_regression"] == losses["distribution"] == 0
        for name, grad in gradients(model, losses).items():
            assert grad is not None, name
            assert grad.isfinite().all(), name

    def test_boxes_that_no_prior_matches_are_as_if_absent(self) -> None:
        images, targets = rectangles(2)
        # Too thin for a centre inside, or but a sliver of them in the image.
        useless = torch.tensor([[30.0, 30, 30.01, 60], [127.99, 40, 600, 60]])
        beside = [
            {
                "boxes": torch.cat([target["boxes"], useless]),
                "labels": torch.cat([target["labels"], torch.ones(2).long()]),
            }
            for target in targets
        ]
        model = detector()
        torch.testing.assert_close(model(images, beside), model(images, targets), rtol=0, atol=0)
        alone = model(images, [{"boxes": useless, "labels": torch.ones(2).long()}, NO_BOXES])
        torch.testing.assert_close(alone, model(images, [NO_BOXES, NO_BOXES]), rtol=0, atol=0)

    def test_the_smallest_image_has_one_cell_on_p7(self) -> None:
        model = GFL(TinyFPN(), 2, min_size=20, max_size=32)
        losses = model(
            [torch.rand(3, 20, 20)], [{"boxes": torch.tensor([[2.0, 3, 15, 18]]), "labels": torch.tensor([2])}]
        )
        assert all(value.isfinite() for value in losses.values())
        assert all(grad.isfinite().all() for grad in gradients(model, losses).values() if grad is not None)

    def test_under_autocast_losses_are_float32_and_near(self) -> None:
        model = detector()
        images, targets = rectangles(2)
        plain = model(images, targets)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = model(images, targets)
        assert all(value.dtype == torch.float32 for value in losses.values())
        torch.testing.assert_close(losses, plain, rtol=0.02, atol=1e-3)
        assert all(grad is None or grad.isfinite().all() for grad in gradients(model, losses).values())


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: None, "one target per image, got none for 2 images"),
            (lambda t: [t[0], {"boxes": t[1]["boxes"]}], r"targets\[1\]\['labels'\] must be int64 \(3,\)"),
            (lambda t: [t[0], {**t[1], "boxes": t[1]["boxes"] * 0}], r"targets\[1\]: box 0 is .* x1 < x2"),
            (lambda t: [t[0], {**t[1], "labels": torch.tensor([1, 3, 2])}], r"box 1 is .* label 3: .* lie in 1\.\.2"),
        ],
    )
    def test_targets(self, change: Callable[[list[dict[str, Tensor]]], Any], message: str) -> None:
        images, targets = rectangles(2)
        with pytest.raises(SegkdError, match=message) as error:
            detector()(images, change(targets))
        assert "\n" not in str(error.value)

    def test_backbone(self) -> None:
        with pytest.raises(SegkdError, match="out_channels"):
            GFL(nn.Identity(), 2)
        with pytest.raises(SegkdError, match="FPN's 40 channels must be"):
            GFL(TinyFPN(40), 2)

    def test_a_backbone_of_other_strides(self) -> None:
        class Fewer(TinyFPN):
            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return dict(list(super().forward(x).items())[1:])

        images, targets = rectangles(1)
        with pytest.raises(SegkdError, match="for images of 128x128 it gave 8x8, 4x4, 2x2, 1x1"):
            GFL(Fewer(), 2, min_size=128)(images, targets)

    def test_an_unknown_option(self) -> None:
        with pytest.raises(TypeError, match="score_tresh"):
            detector(score_tresh=0.1)


def test_the_docstring_example_holds() -> None:
    (example,) = doctest.DocTestFinder(recurse=False).find(GFL, globs=vars(segkd.detection.gfl).copy())
    assert doctest.DocTestRunner().run(example) == (0, len(example.examples))
    assert len(example.examples) == 8


@pytest.mark.slow
def test_overfits_one_batch() -> None:
    from torchmetrics.detection import MeanAveragePrecision

    images, targets = rectangles(4)
    model = detector()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(200):
        loss = sum(model(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    metric = MeanAveragePrecision(backend="faster_coco_eval")
    with torch.no_grad():
        metric.update(model.eval()(images), targets)
    figures = metric.compute()
    assert figures["map_50"] == 1.0
    assert figures["map"] > 0.9
