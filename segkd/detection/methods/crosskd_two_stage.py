"""CrossKD of two-stage detectors: the student's FPN through the teacher's heads of regions (arXiv 2306.11369)."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from segkd.detection.output import TwoStageOutput
from segkd.detection.targets import Targets
from segkd.errors import SegkdError
from segkd.losses import distribution_kl, quality_focal_kd
from segkd.losses._common import check_temperature, full_precision
from segkd.losses._rows import over_processes, weighted_sum
from segkd.losses.base import Loss

EPS = 1e-6
BLOCK = 32  # regions whose masks are compared at once


def best_class_l1(student: Tensor, teacher: Tensor, probability: Tensor) -> Tensor:
    """Return sum w |r - t| / (4 sum w) over regions, of the box of the class that the teacher finds likeliest.

    Its probability is w. In a distributed run the sum of w is the mean over processes. Without regions it is 0.

    Args:
        student: r, (R, K, 4), a box's numbers for each class.
        teacher: t, the same shape.
        probability: (R, K), the teacher's of each class, without background's.

    Raises:
        SegkdError: shapes do not fit.
    """
    if student.shape != teacher.shape or student.shape != (*probability.shape, 4):
        shapes = ", ".join(str(tuple(x.shape)) for x in (student, teacher, probability))
        raise SegkdError(f"best_class_l1 expects (R, K, 4) of student and teacher and (R, K), got {shapes}")
    with full_precision(student, teacher.detach(), probability.detach()) as (s, t, p):
        weight, best = p.max(1)
        rows = torch.arange(len(best), device=best.device)
        total = over_processes(weight.sum(), not torch.is_grad_enabled(), least=EPS)
        return weighted_sum((s[rows, best] - t[rows, best]).abs().sum(1), weight, 4 * total)


class _OfEachImage(torch.autograd.Function):
    """A sum over an image's boxes, a few at a time, its slopes at the maps taken along.

    All that a mask head keeps for backward takes gigabytes: maps of 28x28 of each region and class several times.
    """

    @staticmethod
    def forward(ctx: Any, of_boxes: Any, places: list[Tensor], names: list[str], *maps: Tensor) -> Tensor:
        """Return a scalar, the sum of ``of_boxes(maps of one image by name, its index, some of its boxes)``."""
        is_wanted = any(ctx.needs_input_grad)
        slopes = [torch.zeros_like(x) for x in maps] if is_wanted else []
        total = maps[0].new_zeros((), dtype=torch.promote_types(maps[0].dtype, torch.float32))
        for image, of_image in enumerate(places):
            for boxes in of_image.split(BLOCK) if len(of_image) else ():
                own = [x.detach()[image : image + 1].requires_grad_(is_wanted) for x in maps]
                with torch.set_grad_enabled(is_wanted):
                    value = of_boxes(dict(zip(names, own, strict=True)), image, boxes)
                total += value.detach()
                found = torch.autograd.grad(value, own, allow_unused=True) if is_wanted else ()
                for slope, x in zip(slopes, found, strict=True):
                    if x is not None:
                        slope[image : image + 1] += x
        ctx.save_for_backward(*slopes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the maps."""
        return None, None, None, *((slope * grad).to(slope.dtype) for slope in ctx.saved_tensors)


class CrossKDTwoStage(Loss):
    """CrossKD of Faster and Mask R-CNN: the teacher's heads of regions on the student's FPN, against on its own.

        classes = T^2 / R * sum over the regions of KL(softmax(t / T) || softmax(r / T)), over the K + 1 classes
        boxes = sum v |r - t|_1 / (4 sum v), of the box of the teacher's likeliest class, v its probability
        masks = the quality focal loss of r against t, over the pixels of the regions with an object / R
        L = class_weight * classes + box_weight * boxes + mask_weight * masks

    r are the predictions of the teacher's heads on the student's maps, t those on its own, of the R regions that the
    student's own heads learn from in this step: its proposals, drawn by its sampler. Boxes are encoded
    (`best_class_l1`); masks count where both detectors have them (`segkd.losses.quality_focal_kd`, beta 1, summed over
    the K classes). The teacher's parameters do not change; the gradient passes through its heads to the student's FPN
    and backbone, not to the student's heads nor its RPN.

    Where the student's maps have other channels, a 1x1 convolution with bias, made by `prepare` and shared by the
    levels, maps them. The student may be of other classes and have fewer heads. In a distributed run the divisors are
    the mean over processes.

    It is in branches of the released code, beside `PKD` of weight 6, without published figures; they divide by each
    process's own numbers. The paper is about one-stage detectors, see `CrossKDClass`.

    Args:
        temperature: T of the classes, above 0.
        class_weight: of the classes, at least 0, as are the others.
        box_weight: of the boxes.
        mask_weight: of the masks.

    Shape:
        student, teacher: what `DetectionAdapter` reads as ``"regions"``; target: the transformed targets. Returns a
        scalar.

    Raises:
        SegkdError: an option is out of its range, the student lacks a level that the teacher's heads read, or there are
            no boxes.

    Reference: Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection", arXiv 2306.11369.

    Config:
        task: detection
        student: {arch: faster_rcnn}
        teacher: {arch: faster_rcnn}
        distill:
          terms:
            crosskd: {loss: crosskd_two_stage, temperature: 3.0, weight: 1.0}

    Example:
        >>> from segkd import Term
        >>> from segkd.detection.methods import CrossKDTwoStage
        >>> Term(CrossKDTwoStage()).teacher
        'regions'
    """

    name = "crosskd_two_stage"
    title = "Cross-head distillation of two-stage detectors"
    paper = "arXiv 2306.11369"
    trains = "1x1 convolution where the channels differ"
    reads = "regions"
    takes = "two-stage detectors, and boxes"
    default_weight = 1.0
    normalization = "classes and masks: sums / regions; boxes: weighted mean"
    needs_live = True
    keeps = "no"

    temperature: float = 3.0
    class_weight: float = 0.5
    box_weight: float = 1.0
    mask_weight: float = 1.0

    def check(self) -> None:
        """Look at the options."""
        check_temperature(self.temperature)
        for name in ("class_weight", "box_weight", "mask_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise SegkdError(f"crosskd_two_stage's {name} must be finite and at least 0, got {value}")
        self.align = nn.Sequential()  # empty where the channels are the same

    def prepare(self, student: TwoStageOutput, teacher: TwoStageOutput) -> None:
        """Make the convolution where channels differ; one that is there stays."""
        read = self._read(student, teacher)
        (name, map_of_student), *_ = read.items()
        channels = (map_of_student.shape[1], teacher.named[name].shape[1])
        if channels[0] != channels[1] and not len(self.align):
            self.align.append(nn.Conv2d(*channels, 1, device=map_of_student.device))

    def forward(self, student: TwoStageOutput, teacher: TwoStageOutput, target: Targets | None = None) -> Tensor:
        """Return the loss, a scalar."""
        if student.regions is None:
            raise SegkdError("CrossKDTwoStage compares the regions that a student in training learns from: give boxes")
        heads, sizes = teacher.detector.roi_heads, student.images.image_sizes
        with torch.no_grad():
            goal = _boxes(heads, teacher.named, student.regions.all, sizes)
        maps = {name: self.aligned(x).to(teacher.named[name].dtype) for name, x in self._read(student, teacher).items()}
        crossed = _boxes(heads, maps, student.regions.all, sizes)
        count = torch.tensor(len(goal[0]), device=goal[0].device)
        regions = over_processes(count, not torch.is_grad_enabled(), least=1)
        loss = self.class_weight * self.of_classes(crossed[0], goal[0], regions)
        with full_precision(goal[0]) as (logits,):
            probability = logits.softmax(1)[:, 1:]
        r, t = (x.unflatten(1, (-1, 4))[:, 1:] for x in (crossed[1], goal[1]))
        loss = loss + self.box_weight * best_class_l1(r, t, probability)
        places = student.regions.with_object
        if places is not None and heads.has_mask():

            def of_masks(maps: dict[str, Tensor], image: int, boxes: Tensor) -> Tensor:
                with torch.no_grad():
                    own = {name: x[image : image + 1] for name, x in teacher.named.items()}
                    masks = _masks(heads, own, [boxes], sizes)
                # Classes last, without background's.
                r, t = (x[:, 1:].movedim(1, -1) for x in (_masks(heads, maps, [boxes], sizes), masks))
                return quality_focal_kd(r, t)

            summed: Tensor = _OfEachImage.apply(of_masks, places, list(maps), *maps.values())
            loss = loss + self.mask_weight * summed / regions
        return loss

    def of_classes(self, student: Tensor, teacher: Tensor, regions: Tensor | float | None = None) -> Tensor:
        """Return the KL of logits (R, K + 1), over the number of regions, their own if it is None; unweighted."""
        count = max(len(student), 1) if regions is None else regions
        return distribution_kl(student, teacher.detach(), self.temperature, avg_factor=count)

    def aligned(self, x: Tensor) -> Tensor:
        """Return a map of the student's in the teacher's channels."""
        if not len(self.align):
            return x
        with full_precision(x) as (full,):
            return self.align(full)

    def _read(self, student: TwoStageOutput, teacher: TwoStageOutput) -> dict[str, Tensor]:
        """Return the student's maps of the strides that the teacher's heads read, by the teacher's names."""
        heads = teacher.detector.roi_heads
        read = {*heads.box_roi_pool.featmap_names, *(heads.mask_roi_pool.featmap_names if heads.has_mask() else ())}
        strides = {name: stride for stride, name in zip(teacher.maps, teacher.named, strict=True) if name in read}
        if missing := [stride for stride in strides.values() if stride not in student.maps]:
            raise SegkdError(
                f"CrossKDTwoStage: the teacher's heads read FPN maps of strides {missing}, which the student has not: "
                f"it has {list(student.maps)}"
            )
        return {name: student.maps[stride] for name, stride in strides.items()}


def _boxes(heads: Any, maps: dict[str, Tensor], regions: list[Tensor], sizes: list[tuple[int, int]]) -> Any:
    """Return class logits (R, K + 1), background first, and encoded boxes (R, 4 * (K + 1))."""
    return heads.box_predictor(heads.box_head(heads.box_roi_pool(maps, regions, sizes)))


def _masks(heads: Any, maps: dict[str, Tensor], regions: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
    """Return mask logits (P, K + 1, h, w), background first."""
    return heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(maps, regions, sizes)))
