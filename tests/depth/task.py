"""Monocular depth: one channel in metres, L1 on valid pixels, RMSE."""

from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics import Metric

from segkd.adapter import read_logits
from segkd.common.pictures import Picture, comparison_grid
from segkd.data.dataset import SeededDataset
from segkd.data.description import DatasetSpec
from segkd.data.streets.scene import draw_canvas
from segkd.network import Network
from segkd.training import schema
from segkd.training.measure import Measure
from segkd.training.module import DistillModule
from segkd.training.task import Task

FARTHEST = 80.0
"""Metres: what lies farther, the sky too, counts for nothing."""


class L1(nn.Module):
    """Mean difference to the depth that is known, or to a teacher's where it is a term of distillation."""

    def forward(self, depth: Tensor, reference: Tensor, target: Tensor | None = None) -> Tensor:
        """Return a scalar for depths (B, 1, H, W) and (B, 1, H, W) or (B, H, W)."""
        reference = reference.reshape_as(depth)
        return (depth - reference)[reference < FARTHEST].abs().mean()


class RMSE(Metric):
    """Root mean square error in metres over all valid pixels."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("squares", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, depth: Tensor, target: Tensor) -> None:
        """Count depths (B, 1, H, W) against those that are known (B, H, W)."""
        errors = (depth[:, 0] - target)[target < FARTHEST]
        self.squares += errors.square().sum()
        self.count += errors.numel()

    def compute(self) -> dict[str, float]:
        """Return the error over all."""
        return {"rmse": float((self.squares / self.count).sqrt())}


class SceneSpec(DatasetSpec):
    """Of each split how many scenes, and the seed of the first."""

    title = "generated streets with depth"
    holds = "depth"


class Scenes(SeededDataset):
    """Streets with the depth of each pixel, drawn when they are asked for."""

    def __init__(self, count: int, first: int, size: tuple[int, int], seed: int) -> None:
        self.count, self.first, self.size, self.seed = count, first, size, seed
        self.unlabelled = []

    def __len__(self) -> int:
        return self.count

    def item(self, index: int, seed: int) -> dict[str, Any]:
        """Return ``image`` uint8 (3, H, W) and ``depth`` float32 (H, W), in metres."""
        image, canvas = draw_canvas(self.first + index, self.size)
        return {"image": torch.from_numpy(image).permute(2, 0, 1), "depth": torch.from_numpy(canvas.depth)}

    def told(self) -> list[str]:
        """Return nothing."""
        return []

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack items."""
        return {key: torch.stack([item[key] for item in items]) for key in ("image", "depth")}


class Data(schema.Data):
    """What is trained on."""

    size: tuple[int, int] = (64, 96)


class Config(schema.Config):
    """A whole experiment."""

    data: Data


class DepthTask(Task):
    """One depth run's data and models."""

    name = "depth"
    config_type = Config
    family = "smp"
    measures = (Measure("rmse", "RMSE", unit="m", higher_is_better=False),)

    @classmethod
    def labels(cls) -> type[SceneSpec]:
        """Return scenes."""
        return SceneSpec

    def dataset(self, split: str, augmented: bool) -> Scenes:
        """Return a split."""
        self.spec.check_split(split)
        return Scenes(**self.spec.splits[split], size=self.config.data.size, seed=self.config.seed)

    def samples(self, split: str, count: int) -> Image.Image:
        """Return a picture of samples with their depth."""
        items = [self.dataset(split, augmented=False)[index] for index in range(count)]
        rows = [[item["image"].permute(1, 2, 0).numpy(), self.draw(item)] for item in items]
        return Image.fromarray(comparison_grid(rows, ["image", "depth"], []))

    def inputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, H, W) in [0, 1], and depth (B, H, W)."""
        return batch["image"].float() / 255, batch["depth"]

    def task_loss(self) -> L1:
        """Return the mean difference in metres."""
        return L1()

    def metrics(self, **options: Any) -> RMSE:
        """Return the error in metres."""
        return RMSE(**options)

    def predict(self, network: Network, images: Tensor, target: Tensor | None = None) -> Tensor:
        """Return a model's depths."""
        return read_logits(network(images))

    def boards(self, module: DistillModule, items: list[dict[str, Any]]) -> dict[str, Picture]:
        """Return input, depth and what each model says of it."""
        networks = module.networks()
        rows = [
            [
                item["image"].permute(1, 2, 0).numpy(),
                self.draw(item),
                *(self.draw(item, each) for each in networks.values()),
            ]
            for item in items
        ]
        return {"pictures": comparison_grid(rows, ["input", "depth", *networks], [])}

    def draw(self, item: dict[str, Any], network: Network | None = None) -> Picture:
        """Draw depth, near dark and far bright."""
        depth = item["depth"]
        if network is not None:
            images, _ = self.inputs(Scenes.collate([item]))
            depth = self.predict(network, images)[0, 0].cpu()
        grey = (depth.clamp(0, FARTHEST) / FARTHEST * 255).byte().numpy()
        return np.asarray(cv2.applyColorMap(grey, cv2.COLORMAP_VIRIDIS)[..., ::-1])
