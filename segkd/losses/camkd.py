"""CA-MKD: several teachers, each weighed at each pixel (Zhang, Chen and Wang, arXiv 2201.00007)."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from segkd.errors import SegkdError, nearest
from segkd.losses._common import (
    check_pair,
    check_temperature,
    full_precision,
    labelled_pixels,
    pixel_mean,
    valid_pixels,
)
from segkd.losses._kl import KL
from segkd.losses.base import Loss

Weighting = Literal["label", "entropy"]
Variant = Literal["paper", "released"]


def confidences(teachers: Sequence[Tensor], labels: Tensor | None = None) -> Tensor:
    """Return the weight of each of K teachers at each pixel; one alone has weight 1.

    Args:
        teachers: K logits (B, C, h, w).
        labels: (B, h, w), all of them classes: then it is (1 - softmax_k(CE_k)) / (K - 1), CE the teacher's
            cross-entropy with them. None: 1 - H_k / sum H, H the entropy of its prediction.

    Returns:
        (K, B, h, w), without gradient; of all teachers they add up to 1 with labels, without to K - 1.
    """
    with full_precision(*(teacher.detach() for teacher in teachers)) as logits:
        if len(logits) == 1:
            return torch.ones_like(logits[0][:, 0])[None]
        if labels is not None:
            losses = torch.stack([F.cross_entropy(z, labels, reduction="none") for z in logits])
            return (1 - losses.softmax(0)) / (len(logits) - 1)
        entropy = torch.stack([torch.special.entr(z.softmax(1)).sum(1) for z in logits])
        total = entropy.sum(0)
        # Where all are certain they weigh the same.
        return 1 - torch.where(total > 0, entropy / total.where(total > 0, 1), 1 / len(logits))


class CAMKD(Loss):
    """Confidence-aware multi-teacher KD: pixel KD of several teachers, who weigh more where they are right, or sure.

        L = T^2 * mean over the pixels of sum_k w_k KL_k, KL_k the divergence from teacher k at a pixel
        w_k = (1 - softmax_k(CE_k)) / (K - 1) by the label, or 1 - H_k / sum_j H_j by entropy

    See `confidences` and `PixelKD`. The paper weighs by the label; by entropy, which its code compares with, is for
    images without labels. ``variant="released"`` divides by the number of teachers once more, as the authors' code
    does. Their term on features is not here: `segkd.losses.FitNet` with a term a teacher. For teachers that know
    different things; `segkd.teachers.Average` weighs them alike.

    Args:
        weighting: ``"label"`` or ``"entropy"``.
        temperature: divides the logits, above 0; the weights are taken at 1.
        variant: ``"paper"`` or ``"released"``.
        ignore_index: leave pixels with this label out, as with ``"label"`` those whose label names no class; None keeps
            those with any label in ``"entropy"``. In a distributed run their number is averaged over processes.

    Shape:
        student: (B, C, h, w) logits; teacher: a list of such, one a teacher, or one; target: (B, H, W) labels.
        Returns a scalar.

    Raises:
        SegkdError: shapes differ, there are no labels to weigh by, or an option is out of range.

    Reference: Zhang, Chen, Wang, "Confidence-Aware Multi-Teacher Knowledge Distillation", arXiv 2201.00007.

    Config:
        teachers:
          one: {arch: DeepLabV3Plus, encoder: resnet18, checkpoint: one.pth}
          other: {arch: FPN, encoder: resnet18, checkpoint: other.pth}
        distill:
          terms:
            kd: {loss: camkd, teacher: ["one:logits", "other:logits"], weighting: label, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import CAMKD
        >>> x = torch.randn(1, 3, 4, 4)
        >>> CAMKD(weighting="entropy")(x, [x, x]).item()
        0.0
    """

    name = "camkd"
    title = "Confidence-aware multi-teacher KD"
    paper = "arXiv 2201.00007"
    takes = "logits of several teachers, and labels"
    default_weight = 1.0
    normalization = "T^2 * mean over the pixels of the weighted sum over the teachers"

    weighting: Weighting = "label"
    temperature: float = 4.0
    variant: Variant = "paper"
    ignore_index: int | None = 255

    def check(self) -> None:
        """Look at the options."""
        check_temperature(self.temperature)
        for what, value, known in (
            ("weighting", self.weighting, get_args(Weighting)),
            ("variant", self.variant, get_args(Variant)),
        ):
            if value not in known:
                raise SegkdError(f"camkd has no {what} {value!r}, {nearest(value, known)}")

    def forward(self, student: Tensor, teacher: Tensor | Sequence[Tensor], target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        teachers = [each.detach() for each in ([teacher] if isinstance(teacher, Tensor) else teacher)]
        if not teachers:
            raise SegkdError("camkd takes the logits of one teacher or more, got an empty list")
        for each in teachers:
            check_pair(self.name, student, each)
        labels, valid = None, valid_pixels(target, self.ignore_index, student)
        if self.weighting == "label":
            ignored = -1 if self.ignore_index is None else self.ignore_index
            labels, valid = labelled_pixels(self.name, target, ignored, student)
        weights = confidences(teachers, labels)
        kls = [KL.apply(student, each, self.temperature, None) for each in teachers]
        total = sum(weight * kl for weight, kl in zip(weights, kls, strict=True))
        divisor = len(teachers) if self.variant == "released" else 1
        return pixel_mean(total, valid) * (self.temperature**2 / divisor)
