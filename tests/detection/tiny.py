"""A detector, a backbone and images small enough to train on in seconds."""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from segkd.detection.gfl import GFL

WIDTHS = (16, 32, 32, 64, 64)
COLORS = ((0.9, 0.1, 0.1), (0.1, 0.2, 0.9))


class TinyFPN(nn.Module):
    """Five convolutions of stride 2, and P3..P7 on the last three."""

    def __init__(self, out_channels: int = 64) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8, b), nn.ReLU())
            for a, b in zip((3, *WIDTHS), WIDTHS, strict=False)
        )
        self.fpn = FeaturePyramidNetwork(list(WIDTHS[2:]), out_channels, LastLevelP6P7(out_channels, out_channels))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = {}
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index >= 2:
                maps[str(index)] = x
        return self.fpn(maps)


def rectangles(count: int, seed: int = 0) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Draw images of 128 x 128 pixels with a red (class 1) or blue (class 2) rectangle in three of the quarters."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for index in range(count):
        image = torch.rand(3, 128, 128, generator=generator) * 0.2 + 0.4
        boxes, labels = [], []
        for number in range(3):
            width, height = torch.randint(20, 60, (2,), generator=generator).tolist()
            quarter = (index + number) % 4
            x = quarter % 2 * 64 + int(torch.randint(0, 64 - width, (), generator=generator))
            y = quarter // 2 * 64 + int(torch.randint(0, 64 - height, (), generator=generator))
            label = (index + number) % 2
            image[:, y : y + height, x : x + width] = torch.tensor(COLORS[label])[:, None, None]
            boxes.append([x, y, x + width, y + height])
            labels.append(label + 1)
        images.append(image)
        targets.append({"boxes": torch.tensor(boxes, dtype=torch.float32), "labels": torch.tensor(labels)})
    return images, targets


def detector(**options: Any) -> GFL:
    torch.manual_seed(0)
    return GFL(TinyFPN(), num_classes=2, min_size=128, max_size=256, **options)
