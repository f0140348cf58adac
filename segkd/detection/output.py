"""What a detector gives for one batch, in the parts that its own losses and distillation read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from segkd.detection.heads import DenseHead, Place
from segkd.detection.priors import in_image, own_size
from segkd.detection.targets import Targets
from segkd.losses._common import full_precision
from segkd.losses._levels import compared_strides


@dataclass(eq=False)
class DetectorOutput:
    """A detector's run up to its FPN: the transformed batch, and maps (B, D, h, w) by stride, from fine to coarse.

    ``adversarial`` are those of the images that fool the teacher, where terms read them.
    """

    images: ImageList
    maps: dict[int, Tensor]
    adversarial: dict[int, Tensor] = field(default_factory=dict, kw_only=True)


def shared_strides(
    name: str, student: DetectorOutput, teacher: DetectorOutput, strides: Sequence[int] | None
) -> list[int]:
    """Return the strides of the levels that a method compares, see `compared_strides`."""
    return compared_strides(name, [stride for stride in student.maps if stride in teacher.maps], strides)


@dataclass(eq=False)
class Regions:
    """The regions that a two-stage detector's heads learn from, of each image (n, 4), xyxy in pixels.

    Attributes:
        all: what its sampler drew of the proposals and the boxes, which are among them.
        with_object: those of them that its mask head learns from; None without such a head.
    """

    all: list[Tensor]
    with_object: list[Tensor] | None


@dataclass(eq=False)
class TwoStageOutput(DetectorOutput):
    """A two-stage detector's run.

    Attributes:
        detector: itself, without what `torch.compile` wraps it in.
        named: the maps by the names that its heads pool them under.
        losses: by name; empty in evaluation mode, and where it stopped at its FPN.
        regions: None likewise.
    """

    detector: Any
    named: dict[str, Tensor]
    losses: dict[str, Tensor] = field(default_factory=dict)
    regions: Regions | None = None


@dataclass(eq=False)
class DenseOutput(DetectorOutput):
    """A one-stage detector's whole run.

    Attributes:
        head: the view of its head.
        predictions: what the head returned, see `DenseHead.run`.
        towers: the tower features that terms read: at each place the list of all levels'.
        matched: what `DenseHead.match` returned; None before.
    """

    head: DenseHead
    predictions: dict[str, Tensor]
    towers: dict[Place, list[Tensor]]
    matched: list[Tensor] | None = None

    @cached_property
    def anchors(self) -> list[Tensor]:
        """Per image the anchors, priors or points (N, 4), see `DenseHead.anchors`."""
        return self.head.anchors(self.images, list(self.maps.values()))

    @property
    def level_sizes(self) -> list[int]:
        """How many anchors each level has; N in all."""
        return [x.shape[-2] * x.shape[-1] * self.head.anchors_per_cell for x in self.maps.values()]

    @cached_property
    def in_image(self) -> Tensor:
        """(B, N) bool, which anchors lie in their image rather than in the batch's padding, see `priors.in_image`."""
        height, width = self.images.tensors.shape[-2:]
        divisible = self.head.detector.transform.size_divisible
        sizes = [own_size(shape, divisible) for shape in self.images.image_sizes]
        if all(own[0] >= height and own[1] >= width for own in sizes):
            return self.predictions["cls_logits"].new_ones(self.predictions["cls_logits"].shape[:2], dtype=torch.bool)
        return torch.stack([in_image(*pair) for pair in zip(self.anchors, sizes, strict=True)])

    def match(self, targets: Targets) -> list[Tensor]:
        """Return what `DenseHead.match` does, computed once: the task loss and distillation share it."""
        if self.matched is None:
            self.matched = self.head.match(targets, self.anchors, self.level_sizes, self.images.image_sizes)
        return self.matched

    def of_images(self, index: list[int]) -> "DenseOutput":
        """Return the output for some images of the batch alone, without tower features."""
        images = ImageList(self.images.tensors[index], [self.images.image_sizes[i] for i in index])
        maps = {stride: x[index] for stride, x in self.maps.items()}
        return DenseOutput(images, maps, self.head, {name: x[index] for name, x in self.predictions.items()}, {})

    def loss(self, targets: Targets) -> dict[str, Tensor]:
        """Return the losses that ``detector(images, targets)`` gives in training, in float32 also under autocast."""
        with full_precision(*self.predictions.values()) as values:
            predictions = dict(zip(self.predictions, values, strict=True))
            return self.head.head.compute_loss(targets, predictions, self.anchors, self.match(targets))
