"""Detectors by name: torchvision's, GFL and ATSS, on any backbone of `segkd.detection.backbones`."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead

from segkd.adapter import Normalization
from segkd.common.student import weights_file
from segkd.common.weights import check_fit, read_state_dict
from segkd.detection.atss import ATSSRetinaNet
from segkd.detection.atss_detector import ATSS
from segkd.detection.backbones import FPNBackbone, build_backbone
from segkd.detection.backbones import normalization as backbone_normalization
from segkd.detection.gfl import GFL
from segkd.detection.one_stage import OneStage
from segkd.errors import SegkdError, nearest

# Of the norm in the heads of some detectors, as published.
_GROUPS = 32


def _retinanet(backbone: FPNBackbone, classes: int, assigner: str = "max_iou", **settings: Any) -> RetinaNet:
    return (ATSSRetinaNet if assigner == "atss" else RetinaNet)(backbone, classes, **settings)


def _retinanet_v2(backbone: FPNBackbone, classes: int, **settings: Any) -> RetinaNet:
    model = _retinanet(backbone, classes, **settings)
    anchors = model.head.classification_head.num_anchors
    norm = partial(nn.GroupNorm, _GROUPS)
    model.head = RetinaNetHead(backbone.out_channels, anchors, classes, norm_layer=norm)
    model.head.regression_head._loss_type = "giou"  # as torchvision's own builder sets it
    return model


def _faster_rcnn_v2(backbone: FPNBackbone, classes: int, **settings: Any) -> FasterRCNN:
    channels = backbone.out_channels
    box_head = FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [1024], norm_layer=nn.BatchNorm2d)
    # Three anchors per cell: one size, three aspect ratios.
    return FasterRCNN(backbone, classes, rpn_head=RPNHead(channels, 3, conv_depth=2), box_head=box_head, **settings)


def _one_stage(detector: type[OneStage]) -> Callable[..., OneStage]:
    return lambda backbone, classes, **settings: detector(backbone, classes - 1, **settings)


class _Architecture(NamedTuple):
    detector: type[nn.Module]  # whose settings are the options
    build: Callable[..., nn.Module]  # called with the backbone, the number of classes with background, the options
    backbone: Mapping[str, Any]  # arguments of `build_backbone`
    group_norm: bool = False


_TWO_STAGE = {"levels": "p2_p6"}

#: Architectures by name, each as torchvision's builder of that name makes it.
ARCHITECTURES: dict[str, _Architecture] = {
    "retinanet": _Architecture(RetinaNet, _retinanet, {}),
    "retinanet_v2": _Architecture(RetinaNet, _retinanet_v2, {"p6_from": "c5"}, group_norm=True),
    "fcos": _Architecture(FCOS, FCOS, {}, group_norm=True),
    "faster_rcnn": _Architecture(FasterRCNN, FasterRCNN, _TWO_STAGE),
    "faster_rcnn_v2": _Architecture(FasterRCNN, _faster_rcnn_v2, {**_TWO_STAGE, "fpn_norm": nn.BatchNorm2d}),
    "mask_rcnn": _Architecture(MaskRCNN, MaskRCNN, _TWO_STAGE),
    "gfl": _Architecture(GFL, _one_stage(GFL), {}, group_norm=True),
    "atss": _Architecture(ATSS, _one_stage(ATSS), {}, group_norm=True),
}


def build_detector(
    arch: str,
    backbone: str,
    num_classes: int,
    backbone_weights: str | Path | None = None,
    *,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    normalization: Normalization | None = None,
    norm: str = "batch",
    options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a detector that behaves as torchvision's do.

    ``model(images, targets)`` returns a dict of losses in training; ``model(images)`` a list of ``boxes``, ``labels``
    and ``scores`` in evaluation. Labels are 1..K, 0 is background.

    Args:
        arch: a key of `ARCHITECTURES`. With ``resnet50`` torchvision's are the models of its own builders, and take
            their weights.
        backbone: see `segkd.detection.backbones.build_backbone`.
        num_classes: K, without background.
        backbone_weights: None, ``default``, or a local file; see there.
        min_size: images are resized so that their shorter side has this many pixels (in training, one of these, drawn
            anew for each image; in evaluation the last),
        max_size: or their longer side this many, whichever is smaller.
        normalization: mean and standard deviation per RGB channel, for pixels in [0, 1]; None is what the backbone's
            weights were trained with.
        norm: ``batch``, ``eval`` or ``frozen``, what of the backbone's batch norm is trained; see there.
        options: ``out_channels`` of the FPN (256; the width of the heads follows, but for the 1024 of the two-stage
            detectors' box head and the 256 of the mask head), ``frozen_stages`` of the backbone (0), ``assigner`` of
            RetinaNet (``max_iou`` or ``atss``), and the settings in numbers of the detector's class, such as
            ``score_thresh``.

    Returns:
        The detector. ``config``, a dict of all the arguments but the weights, is what `save_student` writes.

    Raises:
        SegkdError: an unknown name or option, a value out of range, weights that do not fit, or a hub that cannot be
            reached.
    """
    chosen = ARCHITECTURES.get(arch)
    if chosen is None:
        raise SegkdError(f"no detector {arch!r}: {nearest(arch.lower(), ARCHITECTURES)}")
    if num_classes < 1:
        raise SegkdError(f"{arch} needs at least one class, got {num_classes}")
    settings = dict(options or {})
    _check_options(arch, settings)
    mean, std = map(list, normalization or backbone_normalization(backbone))
    sizes = {"min_size": min_size if isinstance(min_size, int) else list(min_size), "max_size": max_size}
    config: dict[str, Any] = {"arch": arch, "backbone": backbone, "num_classes": num_classes, **sizes, "norm": norm}
    config |= {"normalization": [mean, std], "options": dict(settings)}
    of_backbone = {key: settings.pop(key) for key in ("out_channels", "frozen_stages") if key in settings}
    fpn = build_backbone(backbone, backbone_weights, norm=norm, **of_backbone, **chosen.backbone)
    model = chosen.build(fpn, num_classes + 1, **sizes, image_mean=list(mean), image_std=list(std), **settings)
    model.config = config  # type: ignore[assignment]
    return model


def detect(model: nn.Module, images: list[Tensor]) -> list[dict[str, Tensor]]:
    """Return a detector's ``boxes``, ``labels`` and ``scores`` of each image (3, H, W), in [0, 1]; none of background.

    The logits of torchvision's RetinaNet and FCOS have a column for it, which little trained ones may choose.
    """
    return [{key: found[key][found["labels"] > 0] for key in ("boxes", "labels", "scores")} for found in model(images)]


def _check_options(arch: str, options: Mapping[str, Any]) -> None:
    chosen = ARCHITECTURES[arch]
    kinds: dict[str, type] = {"out_channels": int, "frozen_stages": int}
    for name, parameter in inspect.signature(chosen.detector).parameters.items():
        if isinstance(parameter.default, int | float) and name not in ("min_size", "max_size"):
            kinds[name] = type(parameter.default)
    if chosen.detector is RetinaNet:
        kinds["assigner"] = str
        assigner = options.get("assigner", "max_iou")
        if assigner not in ("max_iou", "atss"):
            raise SegkdError(f"{arch} has no assigner {assigner!r}: {nearest(assigner, ('max_iou', 'atss'))}")
        if assigner == "atss":
            del kinds["fg_iou_thresh"], kinds["bg_iou_thresh"]
    for key, value in options.items():
        if key not in kinds:
            raise SegkdError(f"{arch} has no option {key!r}: {nearest(key, kinds, limit=30)}")
        kind = kinds[key]
        if isinstance(value, bool) != (kind is bool) or not isinstance(value, int | float if kind is float else kind):
            expected = "a number" if kind is float else "true or false" if kind is bool else "a whole number"
            raise SegkdError(f"{arch}: option {key} must be {expected}, got {value!r}")
    channels = options.get("out_channels", 256)
    # One channel per group on a map of one cell, which P7 of a small image is, leaves a single value to normalise.
    if chosen.group_norm and (channels % _GROUPS or channels == _GROUPS):
        raise SegkdError(
            f"{arch}: out_channels must be a multiple of {_GROUPS} (the groups of its norm) above it, got {channels}"
        )


# What torchvision called these in the releases that its published weights were saved with, and what it does now.
_RENAMED: tuple[tuple[str, Callable[[re.Match[str]], str]], ...] = (
    (r"((?:inner|layer)_blocks\.\d+)\.(\w+)$", lambda m: f"{m[1]}.0.{m[2]}"),
    (r"(_head\.conv)\.([0246])\.(\w+)$", lambda m: f"{m[1]}.{int(m[2]) // 2}.0.{m[3]}"),
    (r"(rpn\.head\.conv)\.(\w+)$", lambda m: f"{m[1]}.0.0.{m[2]}"),
    (r"(mask_head)\.mask_fcn(\d+)\.(\w+)$", lambda m: f"{m[1]}.{int(m[2]) - 1}.0.{m[3]}"),
)

# Tensors with so many rows per class, and whether background is one of the classes.
_PER_CLASS = {
    "head.class_predictor.": (1, False),
    "roi_heads.box_predictor.cls_score.": (1, True),
    "roi_heads.box_predictor.bbox_pred.": (4, True),
    "roi_heads.mask_predictor.mask_fcn_logits.": (1, True),
}


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load weights into a detector, all of them or none; a path is as `Family.load` takes it.

    They may also be what torchvision publishes. Raises a `SegkdError` where they are of another architecture or number
    of classes, or the file is missing or unreadable.
    """
    file, wanted = weights_file(path), model.state_dict()
    anchors = getattr(getattr(getattr(model, "head", None), "classification_head", None), "num_anchors", 1)
    per_class = {**_PER_CLASS, "head.classification_head.cls_logits.": (anchors, True)}

    def renamed(key: str) -> str:
        for pattern, name in _RENAMED:
            new = re.sub(pattern, name, key)
            if key not in wanted and new in wanted:
                return new
        return key

    def classes(key: str, value: Tensor) -> int | None:
        for start, (rows, background) in per_class.items():
            if key.startswith(start):
                return value.shape[0] // rows - background
        return None

    state = {renamed(key): value for key, value in read_state_dict(file).items()}
    check_fit(model, state, file, classes=classes)
    model.load_state_dict(state)
