"""Prediction-guided feature imitation: features where the two models' scores differ (Li et al., arXiv 2112.04840)."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from segkd.detection.heads import check_heads
from segkd.detection.methods.rank_mimicking import scores_of
from segkd.detection.output import DenseOutput
from segkd.detection.targets import Targets
from segkd.losses._common import check_maps, full_precision
from segkd.losses.base import Loss

Scores = Literal["probability", "logit"]


class PredictionGuidedImitation(Loss):
    """Prediction-guided imitation: FPN features copied as far as the class scores above them differ.

        P = mean over classes (and anchors) of (p_s - p_t)^2, D = mean over channels of (F_s - F_t)^2
        L = mean over the levels of the mean over B, h, w of P * D

    The gradient flows through P too, as the product says. Where the student's channels are others, a 1x1 convolution
    with bias, made by `prepare`, maps them. For heads of one family. There is no released code, and the paper does not
    say whether p are probabilities, which is what is taken here, or logits; the weight is that of a third party's
    draft. Published together with `RankMimicking`.

    Args:
        scores: ``"probability"`` or ``"logit"``.
        detach: whether P is without gradient.

    Shape:
        student, teacher: what `DetectionAdapter` reads as ``"head"``; target is not read. Returns a scalar.

    Raises:
        SegkdError: the scores do not exist, or features differ in shape.

    Reference: Li et al., "Knowledge Distillation for Object Detection via Rank Mimicking and Prediction-guided Feature
    Imitation", arXiv 2112.04840.

    Config:
        task: detection
        distill:
          terms:
            rank: {loss: rank_mimicking, scores: probability, weight: 4.0}
            features: {loss: prediction_guided_imitation, scores: probability, weight: 1.5}

    Example:
        >>> from segkd.detection.methods import PredictionGuidedImitation
        >>> features, scores = torch.randn(1, 4, 6, 6), torch.randn(1, 3, 6, 6)
        >>> PredictionGuidedImitation().of_level(features, features, scores, scores + 1).item()
        0.0
    """

    name = "prediction_guided_imitation"
    title = "Prediction-guided feature imitation"
    paper = "arXiv 2112.04840"
    reads = "head"
    takes = "the FPN and the class scores of detectors"
    default_weight = 1.5
    normalization = "mean over B * C * h * w, then over levels"
    trains = "1x1 convolution where the channels differ"
    published = "COCO, RetinaNet R50: 36.9 to 40.4 AP, with rank mimicking"

    scores: Scores = "probability"
    detach: bool = False

    def check(self) -> None:
        """Look at the option."""
        scores_of(self.name, torch.zeros(()), self.scores)
        self.adapter: nn.Conv2d | None = None

    def check_heads(self, term: Any, student: Any, teacher: Any) -> None:
        """Raise `SegkdError` unless both heads predict alike."""
        check_heads("PredictionGuidedImitation", term, student, teacher)

    def prepare(self, student: DenseOutput, teacher: DenseOutput) -> None:
        """Make the convolution where channels differ; what has one keeps it."""
        channels = (student.head.channels, teacher.head.channels)
        if self.adapter is None and channels[0] != channels[1]:
            self.adapter = nn.Conv2d(*channels, 1, device=student.predictions["cls_logits"].device)

    def forward(self, student: DenseOutput, teacher: DenseOutput, target: Targets | None = None) -> Tensor:
        """Return the loss, a scalar."""
        z_s, z_t = (
            output.head.foreground(output.predictions).split(student.level_sizes, 1) for output in (student, teacher)
        )
        total = []
        for level, (s, t) in enumerate(zip(student.maps.values(), teacher.maps.values(), strict=True)):
            # Cell by cell, with each cell's anchors in turn: (B, anchors * K, h, w).
            cells = (z[level].reshape(len(s), *s.shape[2:], -1).permute(0, 3, 1, 2) for z in (z_s, z_t))
            total.append(self.of_level(s, t, *cells))
        return torch.stack(total).mean()

    def of_level(self, student: Tensor, teacher: Tensor, student_classes: Tensor, teacher_classes: Tensor) -> Tensor:
        """Return the loss of one level: features (B, C, h, w) and class logits (B, K, h, w) of both."""
        with full_precision(student, teacher.detach(), student_classes, teacher_classes.detach()) as (s, t, z_s, z_t):
            s = s if self.adapter is None else self.adapter(s)
            check_maps(self.name, s, t)
            p_s, p_t = (scores_of(self.name, z, self.scores) for z in (z_s, z_t))
            guide = (p_s - p_t).square().mean(1)
            return ((guide.detach() if self.detach else guide) * (s - t).square().mean(1)).mean()
