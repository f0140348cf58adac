"""Small detectors of every family on `TinyFPN`, what to feed them, and distillers of them."""

from typing import Any

import torch
from detection.tiny import TinyFPN, rectangles
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead

from segkd import Distiller, DistillOutput, Term
from segkd.detection.adapter import DetectionAdapter
from segkd.detection.atss import ATSSRetinaNet
from segkd.detection.atss_detector import ATSS
from segkd.detection.gfl import GFL
from segkd.detection.methods.crosskd import CrossKD, CrossKDBox, CrossKDClass
from segkd.detection.output import DenseOutput
from segkd.losses import PKD

CLASSES = 2
SIZES = {"min_size": 128, "max_size": 256}
OTHER = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.2]}


def retinanet_v2(backbone: nn.Module, **settings: Any) -> RetinaNet:
    model = RetinaNet(backbone, CLASSES + 1, **settings)
    model.head = RetinaNetHead(backbone.out_channels, 9, CLASSES + 1, norm_layer=lambda c: nn.GroupNorm(32, c))
    return model


def two_stage(kind: type[FasterRCNN], backbone: nn.Module, **settings: Any) -> FasterRCNN:
    anchors = AnchorGenerator(tuple((s,) for s in (16, 32, 64, 96, 128)), ((0.5, 1.0, 2.0),) * 5)
    settings |= {"rpn_anchor_generator": anchors, "rpn_pre_nms_top_n_train": 50, "rpn_post_nms_top_n_train": 30}
    model = kind(backbone, CLASSES + 1, **settings)
    model.roi_heads.box_roi_pool.featmap_names = ["0", "1", "2", "3"]
    return model


BUILDERS = {
    "retinanet": lambda backbone, **settings: RetinaNet(backbone, CLASSES + 1, **settings),
    "retinanet_v2": retinanet_v2,
    "retinanet_atss": lambda backbone, **settings: ATSSRetinaNet(backbone, CLASSES + 1, **settings),
    "fcos": lambda backbone, **settings: FCOS(backbone, CLASSES + 1, **settings),
    "gfl": lambda backbone, **settings: GFL(backbone, CLASSES, **settings),
    "atss": lambda backbone, **settings: ATSS(backbone, CLASSES, **settings),
    "faster_rcnn": lambda backbone, **settings: two_stage(FasterRCNN, backbone, **settings),
    "mask_rcnn": lambda backbone, **settings: two_stage(MaskRCNN, backbone, **settings),
}
FAMILIES = ("retinanet", "fcos", "gfl", "atss")
DENSE = (*FAMILIES, "retinanet_v2", "retinanet_atss")


class TwoStageFPN(TinyFPN):
    """The same maps under strides 4..64, as two-stage detectors have them: images are enlarged first."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = super().forward(nn.functional.interpolate(x, scale_factor=2))
        return dict(zip(("0", "1", "2", "3", "pool"), maps.values(), strict=True))


def detector(kind: str, seed: int = 0, channels: int = 64, backbone: nn.Module | None = None, **settings: Any) -> Any:
    """Return a detector whose weights depend on the seed alone, large enough that its predictions differ by place."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if backbone is None:
            backbone = (TwoStageFPN if kind.endswith("rcnn") else TinyFPN)(channels)
        model = BUILDERS[kind](backbone, **{**SIZES, **settings})
        head = getattr(model, "head", None)
        for module in head.modules() if head is not None else ():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
    return model


def batch(count: int = 2) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Return images of different sizes with their targets, masks of the boxes included."""
    images, targets = rectangles(count)
    images[0] = images[0][:, :, :100]
    for image, target in zip(images, targets, strict=True):
        target["boxes"] = target["boxes"].clamp(max=100)
        keep = target["boxes"][:, 2] > target["boxes"][:, 0] + 2
        masks = torch.zeros(int(keep.sum()), *image.shape[1:], dtype=torch.uint8)
        target["boxes"], target["labels"] = target["boxes"][keep], target["labels"][keep]
        for mask, (x1, y1, x2, y2) in zip(masks, target["boxes"].int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        target["masks"] = masks
    return images, targets


NO_BOXES = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def crosskd(index: int = 3, channels: tuple[int, int] | None = None, per_process: bool = False) -> dict[str, Term]:
    return {
        name: Term(loss(index, channels, per_process)) for name, loss in (("class", CrossKDClass), ("box", CrossKDBox))
    }


def pkd(**settings: Any) -> dict[str, Term]:
    return {"pkd": Term(PKD(), student="fpn", teacher="fpn", weight=2.0, **settings)}


def distil(student: nn.Module, teacher: nn.Module | None, terms: dict[str, Term], **settings: Any) -> Distiller:
    return Distiller(student, teacher, terms, adapter=DetectionAdapter(), **settings)


def assert_sound(distiller: Distiller, out: DistillOutput) -> None:
    """The loss is finite and its gradients too, and there is one for every parameter."""
    assert out.loss.isfinite()
    distiller.zero_grad()
    out.loss.backward()
    for name, parameter in distiller.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


class WiderFPN(TinyFPN):
    """Another backbone: with a layer more before the same strides."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return super().forward(self.stem(x))


def records(
    losses: list[CrossKD], student: nn.Module, teacher: nn.Module, images: Any = None, targets: Any = None
) -> tuple[DenseOutput, DenseOutput, Any]:
    """Return what a distiller would call these losses with."""
    adapter = DetectionAdapter()
    teacher = teacher.eval().requires_grad_(False)
    adapter.prepare(student, teacher, {f"term{i}": Term(loss) for i, loss in enumerate(losses)})
    if images is None:
        images, targets = batch()
    for_student, for_teacher, targets = adapter.inputs(images, targets)
    with torch.no_grad():
        of_teacher = adapter.run("teacher", teacher, for_teacher)
    return adapter.run("student", student, for_student), of_teacher, targets
