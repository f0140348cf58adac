"""What a loss is measured on: random inputs for each kind of place that a method says it reads.

Images are 512x1024, half of Cityscapes', with logits at stride 4 and features at stride 8, and for detectors 800x1216,
with P3 to P7 (P2 to P6 of two-stage ones). ``shrink`` divides sides and channels.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from segkd.detection.heads import dense_head
from segkd.detection.models import build_detector
from segkd.detection.output import DenseOutput, DetectorOutput, Regions, TwoStageOutput
from segkd.registry import Thing
from segkd.step import Step

BATCH, CLASSES, CHANNELS = 4, 19, 256
LABELS, IMAGES = (512, 1024), (800, 1216)
STRIDES = (8, 16, 32, 64, 128)
OBJECTS, KINDS_OF_OBJECTS, REGIONS = 7, 80, 512
OPTIONS = {"classes": CLASSES}
"""Options that have no default, by name."""


@dataclass
class Given:
    """What a loss is called with, ``loss(*arguments)``, and which tensors of it take a gradient."""

    shape: str
    student: Any
    teacher: Any
    target: Any = None
    step: Step | None = None
    leaves: list[Tensor] = field(default_factory=list)

    @property
    def arguments(self) -> tuple[Any, ...]:
        return (self.student, self.teacher, self.target, *([] if self.step is None else [self.step]))


Place = Callable[..., Given]


@dataclass
class Maker:
    """Draws tensors that are the same in each run; the student's take a gradient."""

    device: str
    shrink: int = 1
    leaves: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def pair(self, *shape: int, shift: float = 0.0) -> tuple[Tensor, Tensor]:
        student, teacher = (torch.randn(shape, generator=self.generator).add_(shift).to(self.device) for _ in range(2))
        self.leaves.append(student.requires_grad_())
        return student, teacher

    def whole(self, below: int, *shape: int) -> Tensor:
        return torch.randint(0, below, shape, generator=self.generator).to(self.device)

    def sides(self, sides: tuple[int, int], stride: int = 1) -> tuple[int, int]:
        height, width = (-(-side // self.shrink // stride) for side in sides)
        return height, width

    def labels(self) -> Tensor:
        """Return labels in squares of 32 pixels, one in twenty of them ignored."""
        coarse = self.whole(CLASSES + 1, BATCH, *self.sides(LABELS, 32))
        coarse[coarse == CLASSES] = 255
        return coarse.repeat_interleave(32, 1).repeat_interleave(32, 2)

    def boxes(self, count: int) -> Tensor:
        """Return boxes (count, 4) of all sizes within an image."""
        sides = torch.tensor(self.sides(IMAGES)[::-1])
        ends = torch.rand(count, 2, 2, generator=self.generator).sort(1).values * (sides - 4)
        return torch.cat([ends[:, 0], ends[:, 1] + 4], 1).to(self.device)

    def targets(self) -> list[dict[str, Tensor]]:
        kinds = self.whole(KINDS_OF_OBJECTS, BATCH, OBJECTS) + 1
        return [{"boxes": self.boxes(OBJECTS), "labels": of_image} for of_image in kinds]

    def images(self) -> ImageList:
        height, width = self.sides(IMAGES)
        return ImageList(torch.zeros(BATCH, 3, height, width, device=self.device), [(height, width)] * BATCH)

    def pyramid(self, strides: tuple[int, ...] = STRIDES) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        pairs = [self.pair(BATCH, CHANNELS // self.shrink, *self.sides(IMAGES, stride)) for stride in strides]
        student, teacher = (dict(zip(strides, maps, strict=True)) for maps in zip(*pairs, strict=True))
        return student, teacher

    def detectors(self, arch: str) -> list[Any]:
        options = {"out_channels": CHANNELS // self.shrink}
        found = [build_detector(arch, "resnet18", KINDS_OF_OBJECTS, options=options) for _ in range(2)]
        return [model.to(self.device) for model in found[:1]] + [found[1].to(self.device).requires_grad_(False).eval()]


def shown(student: Tensor) -> str:
    return "x".join(map(str, student.shape))


def logits(make: Maker, loss: nn.Module, shape: tuple[int, ...] | None = None) -> Given:
    if not getattr(loss, "needs_image_grad", False):
        student, teacher = make.pair(*(shape or (BATCH, CLASSES, *make.sides(LABELS, 4))))
        return Given(shown(student), student, teacher, make.labels())
    # Of the images through a 1x1 convolution: what a network's own second backward takes is the network's.
    images = make.pair(BATCH, 3, *make.sides(LABELS, 4))[0]
    models = [nn.Conv2d(3, CLASSES, 1, device=make.device) for _ in range(2)]
    student, teacher = (model(images) for model in models)
    return Given(shown(student), student, teacher, make.labels(), Step(images))


def several_teachers(make: Maker, loss: nn.Module) -> Given:
    given = logits(make, loss)
    given.teacher = [given.teacher, make.pair(*given.teacher.shape)[1]]
    make.leaves.pop()
    return given


def features(make: Maker, loss: nn.Module, shape: tuple[int, ...] | None = None) -> Given:
    student, teacher = make.pair(*(shape or (BATCH, CHANNELS // make.shrink, *make.sides(LABELS, 8))))
    return Given(shown(student), student, teacher, make.labels())


def places(make: Maker, loss: nn.Module) -> Given:
    """Auxiliary logits, features and logits: a list."""
    found = [logits(make, loss), features(make, loss), logits(make, loss)]
    shape = f"{found[1].shape}, {found[2].shape} twice"
    return Given(shape, *([getattr(each, side) for each in found] for side in ("student", "teacher")))


def of_detectors(what: str) -> str:
    return f"{what} of {BATCH}x{IMAGES[0]}x{IMAGES[1]}"


def fpn(make: Maker, loss: nn.Module) -> Given:
    student, teacher = make.pyramid()
    return Given(of_detectors("P3..P7"), [*student.values()], [*teacher.values()])


def pyramid(make: Maker, loss: nn.Module) -> Given:
    images = make.images()
    sides = (DetectorOutput(images, maps) for maps in make.pyramid())
    return Given(of_detectors("P3..P7"), *sides, make.targets())


def head(make: Maker, loss: nn.Module) -> Given:
    """Two GFLs. Maps, towers and predictions are drawn, without the network between them."""
    images, maps, heads = make.images(), make.pyramid(), [dense_head(model) for model in make.detectors("gfl")]
    count = sum(x.shape[2] * x.shape[3] for x in maps[0].values())
    read = getattr(loss, "places", ())
    towers = {place: make.pyramid() for place in sorted(read)}
    boxes = make.pair(BATCH, count, 68)
    classes = make.pair(BATCH, count, KINDS_OF_OBJECTS, shift=-4.0)
    sides = []
    for side in (0, 1):
        predictions = {"cls_logits": classes[side], "bbox_regression": boxes[side]}
        if getattr(loss, "needs_live", False) and not read:
            # It goes through the heads, and of the student's back.
            with torch.set_grad_enabled(side == 0):
                predictions = heads[side].run([*maps[side].values()])[0]
        kept = {place: [*found[side].values()] for place, found in towers.items()}
        sides.append(DenseOutput(images, maps[side], heads[side], predictions, kept))
    return Given(of_detectors("P3..P7"), *sides, make.targets())


def regions(make: Maker, loss: nn.Module) -> Given:
    """Two Mask R-CNNs; a quarter of the regions, the most that are drawn, has an object."""
    images, sides = make.images(), []
    everywhere = [make.boxes(REGIONS // make.shrink) for _ in range(BATCH)]
    drawn = Regions(everywhere, [boxes[: len(boxes) // 4] for boxes in everywhere])
    for model, maps in zip(make.detectors("mask_rcnn"), make.pyramid((4, 8, 16, 32, 64)), strict=True):
        named = dict(zip(("0", "1", "2", "3", "pool"), maps.values(), strict=True))
        sides.append(TwoStageOutput(images, maps, model, named, regions=drawn))
    return Given(of_detectors("P2..P6"), *sides, make.targets())


PLACES: dict[str, Place] = {
    "logits": logits,
    "logits of several teachers": several_teachers,
    "features": features,
    "a list of places": places,
    "the FPN": fpn,
    "pyramid": pyramid,
    "head": head,
    "regions": regions,
}
"""By what a class reads, or by words of what it takes."""


def kinds(method: Thing) -> list[str]:
    """Return the kinds of place that a method can be given."""
    reads = method.says.get("reads", "logits")
    if reads != "logits" and reads in PLACES:
        return [reads]
    takes = method.says.get("takes") or reads
    for alone in ("logits of several teachers", "a list of places"):
        if alone in takes:
            return [alone]
    return [kind for kind in ("logits", "features", "the FPN") if kind in takes]


def prepared(
    method: Thing, kind: str, device: str, shrink: int = 1, shape: tuple[int, ...] | None = None, **options: Any
) -> tuple[Any, Given]:
    """Return a method's loss, with its layers, and what it is measured on.

    Args:
        method: of `segkd.registry.things`.
        kind: of `kinds`.
        device: where.
        shrink: divides sides and channels.
        shape: of logits or features, if another.
        options: of the loss.
    """
    torch.manual_seed(0)
    required = {key for key, option in method.options().items() if option.default is option.empty}
    loss = method.load()(**{key: OPTIONS[key] for key in required}, **options)
    make = Maker(device, shrink)
    place = PLACES[kind] if shape is None else partial(PLACES[kind], shape=shape)
    given = place(make, loss)
    given.leaves = make.leaves
    if isinstance(loss, nn.Module):
        loss.to(device)
    if kind == "the FPN" and not getattr(loss, "takes_lists", False):
        if hasattr(loss, "prepare"):
            loss.prepare(given.student[0], given.teacher[0])
        return EachLevel(loss), given
    if hasattr(loss, "prepare"):
        loss.prepare(given.student, given.teacher)
    return loss, given


class EachLevel(nn.Module):
    """A loss of two maps on each pair of an FPN's, summed."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, student: list[Tensor], teacher: list[Tensor], target: None = None) -> Tensor:
        return torch.stack([self.loss(s, t, target) for s, t in zip(student, teacher, strict=True)]).sum()
