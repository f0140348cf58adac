"""Detectors by name: torchvision's, GFL and ATSS, on a classification network of torchvision or timm under an FPN."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segkd.common.values import ModelName, PathText, Pixels
from segkd.models.family import Built, Family, ModelBlock, Normalization

if TYPE_CHECKING:
    from torch import nn


class DetectorBlock(ModelBlock):
    """A detector: its architecture, and the backbone under its FPN."""

    arch: ModelName = Field(description="such as gfl, atss, retinanet, fcos or faster_rcnn")
    backbone: ModelName = Field(description="such as resnet50; a timm network after tu-")
    backbone_weights: PathText | None = Field(None, description="default for torchvision's, a local file, or null")
    norm: Literal["batch", "eval", "frozen"] = Field(
        "batch", description="the backbone's batch norm: trained; with its statistics as they are; or all of it frozen"
    )
    inherit: bool | Literal["head"] = Field(
        False, description="the neck and head of a student start from the teacher's weights; head: the head alone"
    )
    normalization: Normalization | None = Field(None, description="default: what the pretrained part was trained with")
    min_size: Pixels | list[Pixels] | None = Field(None, description="default data.min_size")
    max_size: Pixels | None = Field(None, description="default data.max_size")


class Detectors(Family):
    """The detectors of `segkd.detection.models`, which resize and normalise their images themselves."""

    name = "detectors"
    title = "RetinaNet, FCOS, GFL, ATSS, Faster and Mask R-CNN on an FPN"
    block = DetectorBlock
    tasks = ("detection",)
    kept = ("arch", "backbone", "norm", "normalization", "min_size", "max_size", "options")
    encoders = ("body",)

    @classmethod
    def build(cls, block: DetectorBlock, classes: Sequence[str] | None, weights: bool = True) -> Built:
        """Return a detector, see `segkd.detection.models.build_detector`; it always has to be told its classes."""
        from segkd.detection.models import build_detector
        from segkd.network import Preprocess

        given = block.normalization
        sizes = {key: value for key in ("min_size", "max_size") if (value := getattr(block, key)) is not None}
        module = build_detector(
            block.arch,
            block.backbone,
            len(classes or ()),
            block.backbone_weights if weights else None,
            normalization=(given.mean, given.std) if given else None,
            norm=block.norm,
            options=block.options,
            **sizes,
        )
        return Built(module, Preprocess(), None, settings_of(module))

    @classmethod
    def load(cls, module: "nn.Module", path: str | Path) -> bool:
        """Load weights, see `segkd.detection.models.load_weights`."""
        from segkd.detection.models import load_weights

        load_weights(module, path)
        return True


def settings_of(module: Any) -> dict[str, Any]:
    """Return the settings that a detector from `build_detector` is made of again."""
    settings = {key: value for key, value in module.config.items() if key != "num_classes"}
    mean, std = settings["normalization"]
    return {**settings, "normalization": {"mean": mean, "std": std}}
