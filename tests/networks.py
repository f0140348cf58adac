"""Networks for tests: of a family with random weights, or around any module."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from segkd.models.build import build_network
from segkd.models.detectors import DetectorBlock
from segkd.models.smp import SMPBlock
from segkd.network import Network


def network(module: nn.Module, info: Mapping[str, Any], **further: Any) -> Network:
    """Return a module as a network that is described by what a student records."""
    given = {key: info[key] for key in ("mean", "std", "size", "classes") if key in info}
    return Network(module, **given, recorded={k: v for k, v in info.items() if k not in given}, **further).eval()


def segmenter(
    arch: str = "Unet",
    encoder: str = "resnet18",
    classes: int | Sequence[str] = 2,
    recorded: Mapping[str, Any] | None = None,
    size: Sequence[int] | None = None,
    **block: Any,
) -> Network:
    """Return a model of segmentation-models-pytorch."""
    names = [f"c{number}" for number in range(classes)] if isinstance(classes, int) else classes
    return build_network("smp", SMPBlock(arch=arch, encoder=encoder, **block), names, recorded=recorded, size=size)


def detector(
    arch: str = "retinanet",
    backbone: str = "mobilenet_v3_small",
    classes: Sequence[str] = ("cell", "dot"),
    recorded: Mapping[str, Any] | None = None,
    **block: Any,
) -> Network:
    """Return a small detector."""
    block["options"] = {"out_channels": 64, **block.get("options", {})}
    block = {"min_size": 64, "max_size": 96, **block}
    made = DetectorBlock(arch=arch, backbone=backbone, **block)
    return build_network("detectors", made, classes, task="detection", recorded=recorded)
