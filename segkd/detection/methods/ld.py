"""LD: localisation distillation of the distributions of box sides (Zheng et al., arXiv 2102.12252)."""

from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor
from torchvision.ops import box_iou

from segkd.detection.atss import candidates_of
from segkd.detection.gfl_losses import BINS
from segkd.detection.heads import check_heads
from segkd.detection.output import DenseOutput
from segkd.detection.targets import Targets
from segkd.errors import SegkdError, nearest
from segkd.losses import distribution_kl
from segkd.losses._common import check_temperature, full_precision
from segkd.losses._rows import over_processes
from segkd.losses.base import Loss

Region = Literal["paper", "released"]
Normalise = Literal["none", "weights"]


@torch.no_grad()
def valuable_region(
    priors: Tensor,
    level_sizes: list[int],
    boxes: Tensor,
    gamma: float = 0.25,
    region: Region = "paper",
    topk: int = 9,
) -> Tensor:
    """Return the weight of each prior in the region around the boxes, (N,); 0 for a prior that is not in it.

    With thr the threshold of a box in `segkd.detection.atss.atss_assign`, its region is all priors with
    gamma * thr <= D < thr, wherever their centres lie; a prior of several regions belongs to the box with which its IoU
    is highest, and that IoU is its weight. D is the DIoU, IoU - (distance of the centres / diagonal of the hull)^2.

    Args:
        priors: (N, 4), xyxy in pixels, level by level.
        level_sizes: how many priors each level has.
        boxes: (M, 4), xyxy in pixels; M may be 0.
        gamma: in [0, 1].
        region: ``"released"`` has the intersection over the prior's area in place of D's IoU, as the authors' code.
        topk: candidates of each level.
    """
    if len(boxes) == 0 or len(priors) == 0:
        return priors.new_zeros(len(priors))
    boxes = boxes.to(priors)
    threshold = candidates_of(priors, level_sizes, boxes, topk)[2]
    ious = box_iou(boxes, priors)
    low, high = torch.minimum(boxes[:, None], priors), torch.maximum(boxes[:, None], priors)
    share = ious
    if region == "released":
        inside = (low[..., 2:] - high[..., :2]).clamp(min=0).prod(-1)
        share = inside / (priors[:, 2:] - priors[:, :2]).prod(-1)
    apart = (boxes[:, None, :2] + boxes[:, None, 2:] - priors[:, :2] - priors[:, 2:]).square().sum(-1) / 4
    distance = share - apart / (high[..., 2:] - low[..., :2]).square().sum(-1)
    is_in = (distance >= gamma * threshold) & (distance < threshold)
    return torch.where(is_in, ious, 0.0).amax(0)


class Localised(NamedTuple):
    """Which rows of a batch LD compares."""

    positive: Tensor
    """(B, N) bool."""
    region: Tensor
    """(B, N), the weights of `valuable_region`."""
    levels: list[int]
    """How many of the N are of each level."""


class LD(Loss):
    """Localisation distillation: the student copies how sure the teacher is of each side of a box, and of its class.

        KL_T(t, s) = mean over bins, or classes, of T^2 * softmax(t / T) (log softmax(t / T) - log softmax(s / T))
        main = sum over the student's positives of v * mean over 4 sides of KL_T
        region = sum over the region around them of u * sum over 4 sides of KL_T / 16
        class = sum over the levels of the mean over the level's positives of KL_U of the class logits
        L = main_weight * main + region_weight * region + class_weight * class

    T is ``temperature``, U ``class_temperature``, v the student's highest class probability, without gradient. The
    region, in which no label says anything, and its weights u are those of `valuable_region`.

    Main and region part are divided by nothing, as in the released code, and grow with the images of a process: the
    authors warn against more than 3. With more take ``normalise="weights"``, which divides both by the sum of v, at
    least 1, as GFL its box losses, or a share in place of a weight. Also released and not repeated: an image without
    boxes crashes; a region term on classes, multiplied by 0; the R50 config has a feature term beside it. Published on
    COCO, 1x: the main part alone gets GFL R50 to 41.1 AP; all three R18 from 35.8 to 37.5.

    Args:
        main_weight: of the main part, at least 0.
        region_weight: of the region part.
        class_weight: of the class part.
        temperature: of the sides, above 0.
        class_temperature: of the classes, above 0.
        gamma: where a region ends, in [0, 1].
        region: ``"paper"`` measures it by the DIoU; ``"released"`` as the authors' code does.
        normalise: ``"none"`` or ``"weights"``.

    Shape:
        student, teacher: what `DetectionAdapter` reads as ``"head"``, of GFL; target: the transformed targets. Returns
        a scalar.

    Raises:
        SegkdError: an option is out of its range.

    Reference: Zheng et al., "Localization Distillation for Dense Object Detection", arXiv 2102.12252.

    Config:
        task: detection
        distill:
          terms:
            ld: {loss: ld, region: paper, normalise: none, gamma: 0.25, class_weight: 10.0, weight: 1.0}

    Example:
        >>> from segkd import Term
        >>> from segkd.detection.methods import LD
        >>> terms = {"ld": Term(LD(class_weight=0.0), weight=1.0)}
        >>> terms["ld"].teacher
        'head'
    """

    name = "ld"
    title = "Localisation distillation"
    paper = "arXiv 2102.12252"
    reads = "head"
    takes = "the head of GFL, and boxes"
    default_weight = 1.0
    normalization = "sums over priors, divided by nothing, times the weights 0.25, 0.25 and 10 of its parts"
    published = "COCO, GFL, R101 teaches R50: 40.1 to 42.1 AP"

    main_weight: float = 0.25
    region_weight: float = 0.25
    class_weight: float = 10.0
    temperature: float = 10.0
    class_temperature: float = 2.0
    gamma: float = 0.25
    region: Region = "paper"
    normalise: Normalise = "none"

    def check(self) -> None:
        """Look at the options."""
        check_temperature(self.temperature)
        check_temperature(self.class_temperature)
        for name, known in (("region", get_args(Region)), ("normalise", get_args(Normalise))):
            if getattr(self, name) not in known:
                given = getattr(self, name)
                raise SegkdError(f"ld has no {name} {given!r}, {nearest(given, known)}")
        for name in ("main_weight", "region_weight", "class_weight"):
            if not getattr(self, name) >= 0:
                raise SegkdError(f"ld's {name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.gamma <= 1:
            raise SegkdError(f"ld's gamma must lie in [0, 1], got {self.gamma}")

    def check_heads(self, term: Any, student: Any, teacher: Any) -> None:
        """Raise `SegkdError` unless both heads are GFL's and predict alike."""
        check_heads("LD", term, student, teacher, families=["gfl"])

    def forward(self, student: DenseOutput, teacher: DenseOutput, target: Targets) -> Tensor:
        """Return the loss, a scalar."""
        s, t = (output.predictions["bbox_regression"] for output in (student, teacher))
        z_s, z_t = (output.head.foreground(output.predictions) for output in (student, teacher))
        return torch.stack([*self.parts_of(s, t, z_s, z_t, self.localised(student, target)).values()]).sum()

    def localised(self, student: DenseOutput, target: Targets) -> Localised:
        """Return what is compared; nothing in a batch's padding is."""
        regions, levels = [], student.level_sizes
        for priors, is_in, of_image in zip(student.anchors, student.in_image, target, strict=True):
            sizes = torch.stack([level.sum() for level in is_in.split(levels)]).tolist()
            weight = valuable_region(priors[is_in], sizes, of_image["boxes"], self.gamma, self.region)
            regions.append(weight.new_zeros(len(priors)).masked_scatter(is_in, weight))
        return Localised(torch.stack(student.match(target)) >= 0, torch.stack(regions), levels)

    def parts_of(
        self, student: Tensor, teacher: Tensor, student_classes: Tensor, teacher_classes: Tensor, where: Localised
    ) -> dict[str, Tensor]:
        """Return the three parts, weighted, of box logits (B, N, 68) and class logits (B, N, K) of both."""
        with full_precision(student, teacher.detach(), student_classes, teacher_classes.detach()) as (s, t, z_s, z_t):
            positive, region = where.positive, where.region > 0
            v = z_s.detach()[positive].sigmoid().amax(-1)
            divisor: Tensor | float = 1.0
            if self.normalise == "weights":
                divisor = over_processes(v.sum(), per_process=not torch.is_grad_enabled(), least=1)
            parts = {}
            for name, rows, weight, share in (
                ("main", positive, v, self.main_weight / 4),
                ("region", region, where.region[region].to(s.dtype), self.region_weight / 16),
            ):
                of_s, of_t = (x[rows].unflatten(-1, (4, BINS)) for x in (s, t))
                kl = distribution_kl(of_s, of_t, self.temperature, "mean", weight[:, None], divisor)
                parts[name] = share * kl
            counts = torch.stack([level.sum() for level in positive.split(where.levels, 1)]).to(s.dtype)
            counts = over_processes(counts, per_process=not torch.is_grad_enabled())
            shares = torch.where(counts > 0, 1 / counts.clamp(min=1e-12), 0.0)
            per_row = shares.repeat_interleave(torch.tensor(where.levels, device=s.device)).expand(positive.shape)
            kl = distribution_kl(
                z_s[positive], z_t[positive], self.class_temperature, "mean", per_row[positive].to(s.dtype)
            )
            return {**parts, "class": self.class_weight * kl}
