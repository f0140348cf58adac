"""Rank mimicking: which of a box's priors score highest (Li et al., arXiv 2112.04840)."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from segkd.detection.heads import check_heads
from segkd.detection.output import DenseOutput
from segkd.detection.targets import Targets
from segkd.errors import SegkdError, nearest
from segkd.losses._common import full_precision, share_of_all
from segkd.losses.base import Loss

Scores = Literal["probability", "logit"]


def scores_of(name: str, logits: Tensor, scores: str) -> Tensor:
    """Return class logits as they are, or their probabilities."""
    if scores not in get_args(Scores):
        raise SegkdError(f"{name} has no scores {scores!r}, {nearest(scores, get_args(Scores))}")
    return logits.sigmoid() if scores == "probability" else logits


class RankMimicking(Loss):
    """Rank mimicking: the priors of a box are to be ranked by the student as they are by the teacher.

        L = mean over the boxes of KL(softmax_n(p_t) || softmax_n(p_s)) over the priors n of a box, p of the box's class

    The priors are those that the student's assigner gives the box, paired as they are, never sorted; the mean is over
    the batch's boxes that have any, 0 without. For heads of one family. There is no released code, and the paper does
    not say whether p are probabilities, which is what is taken here, or logits; the weight is that of a third party's
    draft. Published together with `PredictionGuidedImitation`.

    Args:
        scores: ``"probability"`` or ``"logit"``.

    Shape:
        student, teacher: what `DetectionAdapter` reads as ``"head"``; target: the transformed targets. Returns a
        scalar.

    Raises:
        SegkdError: the scores do not exist.

    Reference: Li et al., "Knowledge Distillation for Object Detection via Rank Mimicking and Prediction-guided Feature
    Imitation", arXiv 2112.04840.

    Config:
        task: detection
        distill:
          terms:
            rank: {loss: rank_mimicking, scores: probability, weight: 4.0}
            features: {loss: prediction_guided_imitation, scores: probability, weight: 1.5}

    Example:
        >>> from segkd.detection.methods import RankMimicking
        >>> logits, of_box = torch.randn(1, 6, 3), torch.tensor([0, 0, -1, 1, 1, 1])
        >>> RankMimicking().of_priors(logits, logits, [of_box], [torch.tensor([2, 0])]).item()
        0.0
    """

    name = "rank_mimicking"
    title = "Rank mimicking"
    paper = "arXiv 2112.04840"
    reads = "head"
    takes = "the class scores of detectors' heads, and boxes"
    default_weight = 4.0
    normalization = "mean over the boxes that have a prior"
    published = "COCO, RetinaNet R50: 36.9 to 40.4 AP, with prediction-guided imitation"

    scores: Scores = "probability"

    def check(self) -> None:
        """Look at the option."""
        scores_of(self.name, torch.zeros(()), self.scores)

    def check_heads(self, term: Any, student: Any, teacher: Any) -> None:
        """Raise `SegkdError` unless both heads predict alike."""
        check_heads("RankMimicking", term, student, teacher)

    def forward(self, student: DenseOutput, teacher: DenseOutput, target: Targets) -> Tensor:
        """Return the loss, a scalar."""
        s, t = (output.head.foreground(output.predictions) for output in (student, teacher))
        return self.of_priors(s, t, student.match(target), [of_image["labels"] - 1 for of_image in target])

    def of_priors(
        self, student: Tensor, teacher: Tensor, matched: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> Tensor:
        """Return the loss of class logits (B, N, K).

        Args:
            student: z_s.
            teacher: z_t.
            matched: of each image the box of each prior, (N,); negative for none.
            labels: of each image the class of each box, (M,), in 0..K-1.
        """
        box = torch.stack(list(matched))
        is_of_box, kinds = box >= 0, torch.cat(list(labels))
        before = torch.tensor([0, *(len(each) for each in labels)][:-1], device=box.device).cumsum(0)
        box = (box + before[:, None])[is_of_box]
        with full_precision(student, teacher.detach()) as (s, t):
            of_class = (x[is_of_box].gather(1, kinds[box][:, None])[:, 0] for x in (s, t))
            log_q, log_p = (_log_softmax(scores_of(self.name, x, self.scores), box, len(kinds)) for x in of_class)
            used = (torch.bincount(box, minlength=len(kinds)) > 0).sum().to(s.dtype)
            # In a distributed run each box counts alike.
            return (log_p.exp() * (log_p - log_q)).sum() / used.clamp(min=1) * share_of_all(used)


def _log_softmax(x: Tensor, group: Tensor, groups: int) -> Tensor:
    """Return the log-softmax of values (n,) within groups, which are named by (n,) int64."""
    highest = x.new_full((groups,), -torch.inf).scatter_reduce(0, group, x.detach(), "amax")
    shifted = x - highest[group]
    return shifted - x.new_zeros(groups).index_add(0, group, shifted.exp())[group].log()
