import pytest
import torch
from detection.detectors import detector
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from segkd.detection.feature_maps import fpn_maps, fpn_strides
from segkd.detection.models import build_detector


class Rounding(nn.Module):
    """Maps whose sizes are rounded up, as padded convolutions give them."""

    def __init__(self, steps: tuple[int, ...]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        cells = [[-(-n // step) for n in x.shape[2:]] for step in self.steps]
        return {str(i): x.new_zeros(1, 8, *hw) for i, hw in enumerate(cells)}


@pytest.mark.parametrize("size", [32, 64, 96, 128, 160, 288, 1344])
def test_strides_follow_the_maps_sizes(size: int) -> None:
    for strides in ((8, 16, 32, 64, 128), (4, 8, 16, 32, 64)):
        model = nn.Module()
        model.backbone = Rounding(strides)
        images = ImageList(torch.zeros(1, 3, max(32, size // 2), size), [])
        assert list(fpn_maps(model, images)[1]) == list(strides)


def test_a_backbone_that_says_its_strides_is_believed() -> None:
    model = nn.Module()
    model.backbone = Rounding((8, 16))
    model.backbone.strides = (10, 20)
    assert list(fpn_maps(model, ImageList(torch.zeros(1, 3, 64, 64), []))[1]) == [10, 20]
    assert fpn_strides(model) == [10, 20]


def test_the_strides_of_a_detector() -> None:
    assert fpn_strides(detector("gfl")) == [8, 16, 32, 64, 128]
    built = build_detector("faster_rcnn", "mobilenet_v2", 2, options={"out_channels": 32})
    ran = []
    built.backbone.register_forward_hook(lambda *_: ran.append(1))
    assert fpn_strides(built) == [4, 8, 16, 32, 64]
    assert not ran
