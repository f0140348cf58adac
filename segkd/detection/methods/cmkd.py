"""CMKD: a grid's features and predictions, of a teacher that may see another modality (Hong et al., 2211.07171)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.detection.heads import check_heads
from segkd.detection.output import DenseOutput
from segkd.detection.targets import Targets
from segkd.errors import SegkdError
from segkd.losses._common import check_maps, full_precision
from segkd.losses._rows import check_rows
from segkd.losses.base import Loss
from segkd.losses.quality_focal import quality_focal


class CMKD(Loss):
    """Cross-modality distillation, what of it is generic: features of one grid, and what is predicted on it.

        (1) = sum over the FPN's levels of sum m (F_s - F_t)^2 / (C sum m)
        (2) = sum over images and classes of sum_n BCE(z_s, p_t) |p_s - p_t|^beta / max(#(p_t > threshold), 1)
        (3) = mean over images of sum_n q * smooth L1 between the predicted boxes / max(#(q > threshold), 1)
        L = features * (1) + scores * (2) + boxes * (3)

    m is 1 where the teacher's channels do not sum to 0, else ``empty_weight``: of a teacher of point clouds most cells
    are empty. p = sigmoid(z); q = sum_c p_t where that exceeds the threshold, else 0. Boxes are in sides of their
    prior: the paper's are of three dimensions, ours two-dimensional, for which the unit is our choice. A 1x1
    convolution with bias, made by `prepare`, maps the student's channels where they are others.

    Teacher and student may be of other modalities (``images_teacher``), but see one grid.

    Args:
        features: weight of (1), at least 0.
        scores: weight of (2), at least 0.
        boxes: weight of (3), at least 0.
        empty_weight: in [0, 1]; the paper's ``use_nonzero_mask`` is 0.05.
        beta: 0 or at least 1.
        threshold: in [0, 1].

    Shape:
        student, teacher: what `DetectionAdapter` reads as ``"head"``; target is not read. Returns a scalar.

    Raises:
        SegkdError: a number is out of its range, or features differ in shape.

    Reference: Hong et al., "Cross-Modality Knowledge Distillation Network for Monocular 3D Object Detection",
    arXiv 2211.07171.

    Config:
        task: detection
        distill:
          terms:
            cmkd: {loss: cmkd, empty_weight: 1.0, weight: 1.0}

    Example:
        >>> from segkd.detection.methods import CMKD
        >>> x = torch.randn(2, 4, 6, 6)
        >>> CMKD().of_features(x, x).item()
        0.0
    """

    name = "cmkd"
    title = "Cross-modality distillation"
    paper = "arXiv 2211.07171"
    reads = "head"
    takes = "the FPN and the predictions of detectors"
    default_weight = 1.0
    normalization = "features by C and cells, scores by image and class; the parts' own weights are the paper's"
    trains = "1x1 convolution where the channels differ"
    published = "nuScenes, BEVDet-R50: 30.7 to 34.7 mAP"

    features: float = 32.0
    scores: float = 2.0
    boxes: float = 1.0
    empty_weight: float = 1.0
    beta: float = 2.0
    threshold: float = 0.1

    def check(self) -> None:
        """Look at the options."""
        for name in ("features", "scores", "boxes"):
            if not getattr(self, name) >= 0:
                raise SegkdError(f"cmkd: {name} is a weight of at least 0, got {getattr(self, name)}")
        for name in ("empty_weight", "threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise SegkdError(f"cmkd: {name} lies between 0 and 1, got {getattr(self, name)}")
        quality_focal(torch.zeros(1), torch.zeros(1), self.beta)
        self.adapter: nn.Conv2d | None = None

    def check_heads(self, term: Any, student: Any, teacher: Any) -> None:
        """Raise `SegkdError` unless both heads predict on one grid."""
        check_heads("CMKD", term, student, teacher, same=("num_classes", "anchors_per_cell", "strides"))

    def prepare(self, student: DenseOutput, teacher: DenseOutput) -> None:
        """Make the convolution where channels differ; what has one keeps it."""
        channels = (student.head.channels, teacher.head.channels)
        if self.adapter is None and channels[0] != channels[1]:
            self.adapter = nn.Conv2d(*channels, 1, device=student.predictions["cls_logits"].device)

    def forward(self, student: DenseOutput, teacher: DenseOutput, target: Targets | None = None) -> Tensor:
        """Return the loss, a scalar."""
        levels = zip(student.maps.values(), teacher.maps.values(), strict=True)
        features = torch.stack([self.of_features(s, t) for s, t in levels]).sum()
        z_s, z_t = (output.head.foreground(output.predictions) for output in (student, teacher))
        anchors = torch.stack(student.anchors)
        side = (anchors[..., 2:] - anchors[..., :2]).repeat(1, 1, 2)
        b_s, b_t = (x.head.decode(x.predictions, x.anchors) / side for x in (student, teacher))
        total = self.features * features + self.scores * self.of_scores(z_s, z_t)
        return total + self.boxes * self.of_boxes(b_s, b_t, z_t)

    def of_features(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return (1) of one level, a scalar: features (B, C, h, w)."""
        with full_precision(student, teacher.detach()) as (s, t):
            s = s if self.adapter is None else self.adapter(s)
            check_maps(self.name, s, t)
            mask = torch.where(t.sum(1) != 0, 1.0, self.empty_weight).to(t.dtype)
            # Where every cell is empty and counts nothing there is nothing to learn.
            return (mask * (s - t).square().mean(1)).sum() / mask.sum().clamp(min=torch.finfo(t.dtype).tiny)

    def of_scores(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return (2), a scalar: class logits (B, N, K)."""
        check_rows(self.name, student, teacher)
        with full_precision(student, teacher.detach()) as (s, t):
            return (quality_focal(s, t.sigmoid(), self.beta).sum(1) / self.found(t).clamp(min=1)).sum()

    def found(self, logits: Tensor) -> Tensor:
        """Return of how many priors each class's probability exceeds the threshold: (B, K) of logits (B, N, K)."""
        return (logits.sigmoid() > self.threshold).sum(1)

    def of_boxes(self, student: Tensor, teacher: Tensor, logits: Tensor) -> Tensor:
        """Return (3), a scalar: boxes (B, N, 4) in any unit, and the teacher's class logits (B, N, K)."""
        with full_precision(student, teacher.detach(), logits.detach()) as (s, t, z):
            quality = z.sigmoid().sum(2)
            counts = quality > self.threshold
            each = F.smooth_l1_loss(s, t, reduction="none").sum(2) * quality * counts
            return (each.sum(1) / counts.sum(1).clamp(min=1)).mean()
