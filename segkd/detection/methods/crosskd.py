"""CrossKD: the student's features through the teacher's head (Wang et al., arXiv 2306.11369)."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from segkd.connectors import make_connector
from segkd.detection.gfl_losses import BINS
from segkd.detection.heads import BLOCKS, Branch, Place, check_heads
from segkd.detection.output import DenseOutput
from segkd.detection.priors import centerness
from segkd.detection.targets import Targets
from segkd.errors import SegkdError
from segkd.losses import distribution_kl, quality_focal_kd
from segkd.losses._common import full_precision
from segkd.losses._rows import over_processes, weighted_sum
from segkd.losses.pkd import deviation, standardize

IGNORED = -2  # what an anchor that the assigner leaves out has in place of its box's index
EPS = 1e-6


def align_statistics(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the student's features with the teacher's mean and standard deviation, per channel over B*h*w.

    (s - mean_s) / (std_s + 1e-6) * std_t + mean_t, deviations unbiased. The gradient flows through the student's mean
    and deviation, not to the teacher. Where a student's channel is constant, also for having one value alone (1x1 map,
    batch 1), the result is mean_t, without gradient.

    Args:
        student: (B, D, h, w).
        teacher: the same shape.

    Returns:
        The same shape, in float32 (float64 for float64 features).

    Raises:
        SegkdError: shapes differ.
    """
    if student.dim() != 4 or student.shape != teacher.shape:
        raise SegkdError(
            f"align_statistics expects student and teacher of one shape (B, D, h, w), got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    with full_precision(student, teacher.detach()) as (s, t):
        mean = t.mean((0, 2, 3), keepdim=True)
        return standardize(s, EPS) * deviation(t - mean) + mean


class CrossKD(nn.Module):
    """Cross-head distillation: the teacher's head on the student's features mimics the teacher's own predictions.

        f = (f_s - mean_s) / (std_s + 1e-6) * std_t + mean_t, of each channel, after ``index`` blocks of the towers
        r = predict_t(blocks_t(ReLU(f))), through the teacher's remaining blocks; t = the teacher's own predictions
        class = sum over anchors and classes of w * BCE(r, sigmoid(t)) |sigmoid(r) - sigmoid(t)| / A
        box = sum over anchors of w * v * loss(r, t) / V, v an anchor's highest class probability by the teacher

    What both branches' terms share; `CrossKDClass` and `CrossKDBox` are the losses. Index 0 are the FPN maps, without
    ReLU. The student's own predictions, which learn from the labels, are not pulled two ways: the teacher's parameters
    do not change, but the gradient passes through its layers to the student's blocks 1..index of that branch, its neck
    and its backbone; the student's later blocks and predictors get none. The first to try for one-stage detectors.

    The published settings, each branch a term with a weight of its own:

    | student   | index | class weight | box weight | box loss                      | A           | V            |
    | --------- | ----- | ------------ | ---------- | ----------------------------- | ----------- | ------------ |
    | GFL       | 3     | 1            | 4          | KL, mean over the 4 sides     | positives   | sum of w * v |
    | RetinaNet | 3     | 1            | 1          | GIoU, of the decoded boxes    | positives   | A            |
    | FCOS      | 2     | 0.4          | 0.75       | GIoU, of the decoded boxes    | centerness  | A            |
    | ATSS      | 3     | 1            | 1          | GIoU, of the decoded boxes    | positives   | A            |

    A is the sum over images of max(positives, 1) or the sum of the positives' centerness targets, the positives being
    the student's but for those in the padding. w is 0 where the student's assigner ignores the anchor and in what a
    batch of mixed sizes pads an image with (beyond its own multiple of 32 pixels), else 1. In a distributed run A and V
    are the means over processes, so that the mean of the losses is as in one process with all images.

    Released code: for FCOS it takes -log IoU, whose gradient vanishes where boxes are apart, and divides by no less
    than 1e-6, which makes a batch without objects a million times as heavy: here that is divided by 1; points in the
    padding count there. RetinaNet, and GFL's box term, divide by each process's own figures (``per_process``).
    torchvision's box coder lets the logarithm of a side over its anchor's be at most 4.135, as released, but sets no
    lower limit, where that has -4.135: boxes of less than 1/62.5 of their anchor differ. GFL's and ATSS's own losses
    leave the padding out and divide likewise over processes (``student.options.per_process``); torchvision's detectors
    keep their own.

    Student and teacher are of one family (RetinaNet, also with ``assigner: atss``, FCOS, GFL or ATSS), with the same
    classes, FPN strides and anchors per cell. Background's column of torchvision's class logits is left out. Published
    on COCO, R101 teaches R50, also: RetinaNet 37.4 to 39.7 AP, FCOS 38.5 to 41.1, ATSS 39.4 to 41.8.

    Args:
        index: 0..4, how many of the tower's blocks are the student's.
        channels: (student's, teacher's) of the towers where they differ: a 1x1 convolution without bias, trained with
            the student, then maps the student's features. None: they are the same.
        per_process: whether each process of a distributed run divides by its own figures.

    Shape:
        student, teacher: what `segkd.detection.adapter.DetectionAdapter` reads as ``"head"``; target: the
        transformed targets. Returns a scalar.

    Raises:
        SegkdError: the index is none of 0..4, or features differ in shape.

    Reference: Wang et al., "CrossKD: Cross-Head Knowledge Distillation for Object Detection", arXiv 2306.11369.
    """

    reads = "head"
    needs_live = True
    branch: ClassVar[Branch]

    def __init__(self, index: int = 3, channels: tuple[int, int] | None = None, per_process: bool = False) -> None:
        super().__init__()
        if type(index) is not int or not 0 <= index <= BLOCKS:
            raise SegkdError(f"the index of {type(self).__name__} is a number of blocks, 0..{BLOCKS}, got {index!r}")
        self.index, self.channels = index, None if channels is None else tuple(channels)
        self.per_process = per_process
        self.connector = None if channels is None else make_connector("conv1x1", *channels)

    @property
    def places(self) -> set[Place]:
        """The tower features that it reads of both heads."""
        return {(self.branch, self.index)}

    def check_heads(self, term: Any, student: Any, teacher: Any) -> None:
        """Raise `SegkdError` unless its term reads both heads and these fit together."""
        kind = type(self).__name__
        if term.connector is not None:
            raise SegkdError(f"{kind} takes no connector of its term: it has one of its own, {kind}(channels=...)")
        check_heads(kind, term, student, teacher)
        channels = (student.channels, teacher.channels)
        if channels != (self.channels or (student.channels, student.channels)):
            raise SegkdError(
                f"the student's head has {channels[0]} channels, the teacher's {channels[1]}: give {kind} "
                f"channels={list(channels)}"
            )

    def cross(self, student: DenseOutput, teacher: DenseOutput) -> dict[str, Tensor]:
        """Return the cross-head predictions of this branch, see `DenseHead.tail`."""
        place, features = (self.branch, self.index), []
        for s, t in zip(student.towers[place], teacher.towers[place], strict=True):
            aligned = align_statistics(s if self.connector is None else self.connector(s), t).to(t.dtype)
            features.append(aligned.relu() if self.index else aligned)
        return teacher.head.tail(self.branch, features, self.index)

    def extra_repr(self) -> str:
        """Show the settings in ``print``."""
        return f"index={self.index}, channels={self.channels}"


class CrossKDClass(CrossKD):
    """CrossKD of the class branch, see `CrossKD`.

    The sum over anchors and classes of w * `segkd.losses.quality_focal_kd` (beta 1), over the family's divisor.

    Config:
        task: detection
        distill:
          terms:
            class: {loss: crosskd_class, index: 3, weight: 1.0}
    """

    name = "crosskd_class"
    title = "Cross-head distillation of classes"
    paper = "arXiv 2306.11369"
    takes = "the head of detectors, and boxes"
    default_weight = 1.0
    normalization = "sum over anchors / positives; 0.4 for FCOS"
    trains = "1x1 convolution where channels are given"
    published = "COCO, GFL, R101 teaches R50: 40.2 to 43.7 AP"
    branch = "class"

    def forward(self, student: DenseOutput, teacher: DenseOutput, target: Targets) -> Tensor:
        """Return the loss, a scalar."""
        logits, goal = (teacher.head.foreground(x) for x in (self.cross(student, teacher), teacher.predictions))
        factor = average_factor(student, target, self.per_process)
        return quality_focal_kd(logits, goal, _taking_part(student, target), avg_factor=factor)


class CrossKDBox(CrossKD):
    """CrossKD of the box branch, see `CrossKD`.

    The sum over anchors of w * v times, for GFL, the KL of each side's distribution, mean over the four sides; for the
    others the GIoU loss of the decoded boxes; over the family's divisor. For ATSS the centerness branch, which shares
    the tower, adds ``centerness`` times the sum over the positives of BCE(r, sigmoid(t)), over the same divisor: also
    where both agree it is not 0.

    Args:
        centerness: weight of the centerness part, at least 0; of ATSS alone.

    Config:
        task: detection
        distill:
          terms:
            box: {loss: crosskd_box, index: 3, weight: 4.0}
    """

    name = "crosskd_box"
    title = "Cross-head distillation of boxes"
    paper = "arXiv 2306.11369"
    takes = "the head of detectors, and boxes"
    default_weight = 4.0
    normalization = "sum over anchors / their weights, for GFL; 1 for RetinaNet and ATSS, 0.75 for FCOS"
    trains = "1x1 convolution where channels are given"
    published = "COCO, GFL, R101 teaches R50: 40.2 to 43.7 AP"
    branch = "box"

    def __init__(
        self,
        index: int = 3,
        channels: tuple[int, int] | None = None,
        per_process: bool = False,
        centerness: float = 1.0,
    ) -> None:
        super().__init__(index, channels, per_process)
        if not (math.isfinite(centerness) and centerness >= 0):
            raise SegkdError(f"the centerness of CrossKDBox is a weight, at least 0, got {centerness!r}")
        self.centerness = centerness

    def forward(self, student: DenseOutput, teacher: DenseOutput, target: Targets) -> Tensor:
        """Return the loss, a scalar."""
        head, crossed, goal = teacher.head, self.cross(student, teacher), teacher.predictions
        with full_precision(head.foreground(goal)) as (logits,):
            weight = logits.amax(-1).sigmoid() * _taking_part(student, target)
            if head.family == "gfl":
                r, t = (x["bbox_regression"].unflatten(-1, (4, BINS)) for x in (crossed, goal))
                total = over_processes(weight.sum(), self.per_process, least=EPS)
                return distribution_kl(r, t, weight=weight[..., None], avg_factor=4 * total)
            r, t = (head.decode(x, teacher.anchors) for x in (crossed, goal))
            factor = average_factor(student, target, self.per_process)
            loss = weighted_sum(generalized_box_iou_loss(r, t), weight, factor)
            if head.family == "atss" and self.centerness:
                r, t = (x["bbox_ctrness"] for x in (crossed, goal))
                positive = torch.stack(student.match(target)) >= 0
                # With an exponent of 0 it is the plain cross-entropy.
                loss = loss + self.centerness * quality_focal_kd(r, t, positive, beta=0.0, avg_factor=factor)
            return loss


def _taking_part(student: DenseOutput, target: Targets) -> Tensor:
    """Return w, (B, N) bool."""
    return (torch.stack(student.match(target)) != IGNORED) & student.in_image


def average_factor(student: DenseOutput, target: Targets, per_process: bool = False) -> Tensor:
    """Return what a batch's CrossKD losses are divided by, a scalar above 0; the mean over a run's processes.

    For FCOS the sum of the centerness targets of the positives, and 1 in a batch without any, where the published floor
    of 1e-6 would make the class term a million times as large. For the others the sum over images of max(positives, 1).
    """
    head, matched = student.head, student.match(target)
    if head.family != "fcos":
        positive = (torch.stack(matched) >= 0) & student.in_image
        return over_processes(positive.sum(1).clamp(min=1).sum(), per_process)
    shares = []
    for anchors, indices, of_image in zip(student.anchors, matched, target, strict=True):
        positive = indices >= 0
        boxes = of_image["boxes"][indices[positive]]
        shares.append(centerness(head.detector.box_coder.encode(anchors[positive], boxes)))
    total = over_processes(torch.cat(shares).sum(), per_process)
    return torch.where(total > 0, total.clamp(min=EPS), 1.0)
