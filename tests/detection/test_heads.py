import copy
import math

import pytest
import torch
from detection.detectors import CLASSES, DENSE, FAMILIES, batch, detector
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from segkd.detection.heads import BLOCKS, DenseHead, dense_head
from segkd.errors import SegkdError

PLACES = [(branch, index) for branch in ("class", "box") for index in range(BLOCKS + 1)]


def maps_of(model: nn.Module) -> list[Tensor]:
    images, _ = model.transform(batch()[0])
    return list(model.backbone(images.tensors).values())


@pytest.fixture(params=DENSE)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return detector(request.param)


def test_what_it_says_of_the_head() -> None:
    known = (("retinanet_v2", "retinanet", 9), ("fcos", "fcos", 1), ("gfl", "gfl", 1), ("atss", "atss", 1))
    for kind, family, anchors in known:
        head = dense_head(detector(kind))
        assert (head.family, head.num_classes, head.anchors_per_cell, head.channels) == (family, CLASSES, anchors, 64)
    assert dense_head(detector("retinanet_atss")).anchors_per_cell == 1


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_two_stages_have_none(kind: str) -> None:
    with pytest.raises(SegkdError, match=r"a (Faster|Mask)RCNN has no dense head .* RetinaNet, FCOS, GFL, ATSS have"):
        dense_head(detector(kind))


def test_other_one_stage_detectors_are_not_known() -> None:
    with pytest.raises(SegkdError, match="a SSD has no dense head"):
        dense_head(ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None))


def test_a_compiled_detector_is_read_through() -> None:
    model = detector("fcos")
    assert dense_head(torch.compile(model)).detector is model


class TestRun:
    def test_is_the_heads_own_forward_and_leaves_no_hook(self, model: nn.Module) -> None:
        maps = maps_of(model)
        predictions, kept = dense_head(model).run(maps, PLACES)
        torch.testing.assert_close(predictions, model.head(maps), rtol=0, atol=0)
        assert list(kept) == PLACES
        assert not any(module._forward_hooks for module in model.modules())

    def test_nothing_is_kept_unless_asked(self, model: nn.Module) -> None:
        assert dense_head(model).run(maps_of(model))[1] == {}

    def test_keeps_each_blocks_output_of_each_level(self, model: nn.Module) -> None:
        maps, head = maps_of(model), dense_head(model)
        kept = head.run(maps, PLACES)[1]
        for branch in ("class", "box"):
            features = maps
            for index in range(BLOCKS + 1):
                torch.testing.assert_close(kept[branch, index], features, rtol=0, atol=0)
                assert index == 0 or all(x.min() == 0 for x in features)  # after the block's ReLU
                # Of copies: a block that worked in place on its input would show above.
                block = head.blocks(branch, index)[: head.step]
                features = [block(x.clone()) for x in features]


class TestTail:
    @pytest.mark.parametrize("index", range(BLOCKS + 1))
    def test_of_the_heads_own_features_is_its_prediction(self, model: nn.Module, index: int) -> None:
        maps, head = maps_of(model), dense_head(model)
        predictions, kept = head.run(maps, PLACES)
        before = copy.deepcopy([x.detach() for x in kept["class", index]])
        reused = head.tail("class", kept["class", index], index) | head.tail("box", kept["box", index], index)
        torch.testing.assert_close(reused, predictions, rtol=0, atol=0)
        torch.testing.assert_close([x.detach() for x in kept["class", index]], before, rtol=0, atol=0)

    def test_gfls_boxes_are_scaled_per_level_in_float32(self) -> None:
        model = detector("gfl")
        with torch.no_grad():
            model.head.scales.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]))
        head, maps = dense_head(model), [torch.rand(1, 64, 1, 1)] * 5
        with torch.autocast("cpu", torch.bfloat16):
            sides = head.tail("box", maps, 2)["bbox_regression"]
        assert sides.dtype == torch.float32
        torch.testing.assert_close(sides[0], sides[0, :1] * torch.arange(1.0, 6)[:, None])


class TestAnchors:
    def test_are_the_detectors_own(self, model: nn.Module) -> None:
        images, _ = model.transform(batch()[0])
        maps = list(model.backbone(images.tensors).values())
        expected = model.anchor_generator(images, maps)
        torch.testing.assert_close(dense_head(model).anchors(images, maps), expected, rtol=0, atol=0)

    def test_are_exact_beside_bfloat16_maps(self, model: nn.Module) -> None:
        images, _ = model.transform(batch()[0])
        maps, head = list(model.backbone(images.tensors).values()), dense_head(model)
        exact = head.anchors(images, maps)
        torch.testing.assert_close(head.anchors(images, [x.bfloat16() for x in maps]), exact, rtol=0, atol=0)
        assert exact[0].dtype == torch.float32


class TestDecode:
    ANCHORS = torch.tensor([[[16.0, 24.0, 48.0, 56.0], [400.0, 8.0, 403.0, 40.0]]])

    def decode(self, head: DenseHead, regression: Tensor) -> Tensor:
        return head.decode({"bbox_regression": regression}, list(self.ANCHORS))

    def test_exact_values(self) -> None:
        retinanet, fcos, gfl, atss = (dense_head(detector(kind)) for kind in FAMILIES)
        assert torch.equal(self.decode(retinanet, torch.zeros(1, 2, 4)), self.ANCHORS)
        moved = self.decode(retinanet, torch.tensor([[[0.5, -0.25, 0.0, 0.0]] * 2]))
        assert torch.equal(moved[0, 0], torch.tensor([32.0, 16.0, 64.0, 48.0]))
        # Distances to left, top, right and bottom from the centre, in sides of the square.
        sides = self.decode(fcos, torch.tensor([[[0.0, 0.5, 1.0, 2.0]] * 2]))
        assert torch.equal(sides[0, 0], torch.tensor([32.0, 24.0, 64.0, 104.0]))
        # Equal logits mean 8 strides, and the square's side is 8 strides.
        assert torch.equal(self.decode(gfl, torch.zeros(1, 2, 68))[0, 0], torch.tensor([0.0, 8.0, 64.0, 72.0]))
        # A tenth of the prior's sides to the right, half of them up, and twice as wide.
        offset = self.decode(atss, torch.tensor([[[1.0, -5.0, 5 * math.log(2), 0.0]] * 2]))
        torch.testing.assert_close(offset[0, 0], torch.tensor([3.2, 8.0, 67.2, 40.0]))

    @pytest.mark.parametrize("kind", DENSE)
    def test_runs_in_float32_under_autocast(self, kind: str) -> None:
        head = dense_head(detector(kind))
        regression = torch.randn(1, 2, 68 if kind == "gfl" else 4)
        expected = self.decode(head, regression.bfloat16().float())
        with torch.autocast("cpu", torch.bfloat16):
            boxes = self.decode(head, regression.bfloat16())
        torch.testing.assert_close(boxes, expected, rtol=0, atol=0)


def test_foreground_leaves_background_out() -> None:
    logits = torch.randn(1, 5, CLASSES + 1)
    for kind in FAMILIES:
        expected = logits[..., 1:] if kind in ("retinanet", "fcos") else logits
        assert torch.equal(dense_head(detector(kind)).foreground({"cls_logits": logits}), expected)
