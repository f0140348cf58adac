"""Small models and batches for the distiller's tests."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 5


class Net(nn.Module):
    """Encoder of two stages and a 1x1 head; logits (B, C, H/stride, W/stride)."""

    def __init__(self, width: int = 6, classes: int = CLASSES, stride: int = 1, norm: bool = True) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 3, stride=stride, padding=1),
            nn.BatchNorm2d(width) if norm else nn.Identity(),
            nn.ReLU(),
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class WithAux(Net):
    """Returns torchvision's mapping, the auxiliary logits from the same features."""

    def __init__(self, width: int = 6, classes: int = CLASSES, stride: int = 1) -> None:
        super().__init__(width, classes, stride)
        self.aux = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.encoder(x)
        return {"out": self.head(features), "aux": self.aux(features)}


class Twice(nn.Module):
    """A head that runs on two levels, as detectors' heads do; logits from the finer one."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Conv2d(4, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        coarse = self.head(F.avg_pool2d(fine, 2))
        return self.head(fine) + F.interpolate(coarse, size=fine.shape[2:])


def seeded(make: type[nn.Module], seed: int, **arguments: object) -> nn.Module:
    """Return a model whose weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make(**arguments)


def batch(
    count: int = 2, size: tuple[int, int] = (16, 24), classes: int = CLASSES, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return images and labels, one label in ten ignored (255)."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, *size, generator=generator)
    masks = torch.randint(0, CLASSES, (count, *size), generator=generator)
    masks[torch.rand(masks.shape, generator=generator) < 0.1] = 255
    return images, masks


def cross_entropy() -> nn.CrossEntropyLoss:
    return nn.CrossEntropyLoss(ignore_index=255)
