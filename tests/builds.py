"""What every family's models must do: train in a distiller, be made again of their settings, and be exported."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segkd import Distiller, Term
from segkd.adapter import read_logits
from segkd.deployment import formats
from segkd.losses import PixelKD
from segkd.models.family import Built, Family
from segkd.network import Network

CLASSES = ["road", "sky", "car"]


def build(kind: type[Family], classes: list[str] | None = CLASSES, fetch: bool = True, **block: Any) -> Built:
    """Build a model as a config asks for it."""
    return kind.build(kind.block(**block), classes, fetch)


def network(built: Built, classes: list[str] | None = None) -> Network:
    """Return the network of a model; it goes on with the module itself."""
    images = built.preprocess
    return Network(
        built.module,
        mean=images.mean,
        std=images.std,
        white=images.white,
        size=images.size,
        multiple=images.multiple,
        classes=built.classes or classes or [],
    )


def pictures(height: int = 64, width: int = 96) -> Tensor:
    """Return two raw images."""
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(built: Built, images: Tensor) -> Tensor:
    return read_logits(network(built).eval()(images))


def expect_same_again(family: type[Family], built: Built, classes: list[str], images: Tensor) -> Built:
    """Assert that settings, weights and what is recorded of images make the same model: equal outputs, bit for bit."""
    again = build(family, classes, fetch=False, **json.loads(json.dumps(built.settings)))
    again.module.load_state_dict(built.module.state_dict())
    again.preprocess = built.preprocess
    assert torch.equal(logits(again, images), logits(built, images))
    return again


def train_step(student: Built, teacher: Built, images: Tensor, classes: int = len(CLASSES)) -> dict[str, Tensor]:
    """Take one step of distillation, after which every parameter that was read has moved; return the terms."""
    distiller = Distiller(
        network(student), network(teacher), {"kd": Term(PixelKD())}, nn.CrossEntropyLoss(ignore_index=255)
    )
    distiller.train()
    masks = torch.randint(0, classes, (len(images), *images.shape[-2:]), generator=torch.Generator().manual_seed(0))
    before = {key: value.clone() for key, value in student.module.named_parameters()}
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.1)
    out = distiller(images, masks, progress=0.0)
    out.loss.backward()
    optimizer.step()
    moved = [key for key, value in student.module.named_parameters() if not torch.equal(value, before[key])]
    assert len(moved) > len(before) / 2, moved
    assert all(torch.isfinite(value) for value in out.terms.values())
    return out.terms


class _Logits(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        return read_logits(self.module(images))


def expect_exports(built: Built, folder: Path, images: Tensor, axes: dict[int, str] | None = None) -> None:
    """Assert that a model as an ONNX file gives what it gives itself."""
    module = _Logits(built.module).eval()
    graph = formats.Graph(module, images, "images", ("logits",), axes or {}, {})
    path = folder / "model.onnx"
    chosen = formats.FORMATS["onnx"]
    with formats.quiet(), torch.no_grad():
        chosen.write(graph, path)
        expected = module(images)
    (found,) = chosen.open(path, 1)(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
