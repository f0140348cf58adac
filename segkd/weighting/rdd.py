"""RDD: relative-difficulty weights on the task loss of each pixel (Liang et al., arXiv 2407.03719)."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkd.errors import SegkdError, nearest
from segkd.losses._common import full_precision, resize
from segkd.losses.pixel_kd import pixel_kl
from segkd.weighting.base import PixelWeights, over_valid, valid_labels

Variant = Literal["paper", "released"]
Combine = Literal["xor", "or", "and"]
Normalize = Literal["kept", "valid", "all"]


def teacher_full_difficulty(
    logits: Tensor, aux_logits: Tensor, variant: Variant = "paper", size: tuple[int, int] | None = None
) -> Tensor:
    """First stage: how easy each pixel is, by the agreement of the teacher's own two heads.

    ``"paper"``: exp(-KL(main || auxiliary)); ``"released"``: exp(-KL(auxiliary || main)), as the authors' code has it.

    Args:
        logits: (B, C, h, w), the teacher's main head.
        aux_logits: (B, C, h, w), its auxiliary head (an FCN head on encoder stage 4).
        variant: ``"paper"`` or ``"released"``.
        size: (H, W) to resize the weights to, after the exponential; ``"released"`` aligns corners. None keeps (h, w).

    Returns:
        (B, h, w) or (B, H, W) weights in (0, 1] (0 where the exponential underflows), no gradient.

    Raises:
        SegkdError: shapes differ or the variant does not exist.
    """
    _check_choice("variant", variant, get_args(Variant))
    if logits.shape != aux_logits.shape:
        raise SegkdError(
            f"rdd expects the teacher's two heads in one shape, got {tuple(logits.shape)} and {tuple(aux_logits.shape)}"
        )
    with torch.no_grad():
        first, second = (logits, aux_logits) if variant == "paper" else (aux_logits, logits)
        weights = (-pixel_kl(second, first).clamp(min=0)).exp()
        if size is None:
            return weights
        return resize(weights[:, None], size, align_corners=variant == "released")[:, 0]


def true_class_probability(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Return the softmax probability of the true class (B, H, W) of logits at label size, 1 where it is not valid."""
    with torch.no_grad(), full_precision(logits) as (z,):
        index = target.masked_fill(~valid, 0).long()
        # Image by image: a whole batch's probabilities at label size are memory that has to be fetched anew each step.
        of_images = [F.softmax(image, 0).gather(0, i[None])[0] for image, i in zip(z, index, strict=True)]
        return torch.stack(of_images).masked_fill(~valid, 1.0)


def _hard(probability: Tensor, valid: Tensor, threshold: float, min_kept: int) -> Tensor:
    """Return where the probability is at most max(threshold, k-th smallest of the batch), k = min_kept."""
    limit: float | Tensor = threshold
    if min_kept > 0 and (count := int(valid.sum())) > 0:
        kth = probability[valid].kthvalue(min(min_kept, count)).values
        limit = kth.clamp(min=threshold)
    return (probability <= limit) & valid


def teacher_student_difficulty(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    threshold: float = 0.7,
    min_kept: int = 0,
    combine: Combine = "xor",
    ignore_index: int = 255,
) -> Tensor:
    """Second stage: keep the pixels that are hard for one of the two models, by the true class's probability f.

    ``[f_s <= threshold] xor [f_t <= threshold]``, ties included. Labels that are ``ignore_index`` or name no class are
    never kept.

    Args:
        student_logits: (B, C, H, W) at label size.
        teacher_logits: the same shape.
        target: (B, H, W) labels.
        threshold: on the probability, in [0, 1].
        min_kept: raise each model's threshold, if need be, to the min_kept-th smallest f of the batch (as released,
            100000 there); with fewer valid pixels, to the largest. 0 leaves the threshold alone.
        combine: ``"xor"``, ``"or"`` or ``"and"``.
        ignore_index: label to leave out.

    Returns:
        (B, H, W) bool, no gradient.

    Raises:
        SegkdError: shapes differ or a value is out of range.
    """
    labelled = (target.shape[0], *student_logits.shape[1:2], *target.shape[1:])
    if not student_logits.shape == teacher_logits.shape == labelled:
        raise SegkdError(
            f"rdd expects both logits at label size, got student {tuple(student_logits.shape)}, teacher "
            f"{tuple(teacher_logits.shape)} and labels {tuple(target.shape)}"
        )
    _check(threshold, min_kept, combine)
    valid = valid_labels(target, student_logits.shape[1], ignore_index)
    student = _hard(true_class_probability(student_logits, target, valid), valid, threshold, min_kept)
    teacher = _hard(true_class_probability(teacher_logits, target, valid), valid, threshold, min_kept)
    if combine == "xor":
        return student ^ teacher
    return student | teacher if combine == "or" else student & teacher


def _check(threshold: float, min_kept: int, combine: str) -> None:
    if not 0 <= threshold <= 1:
        raise SegkdError(f"rdd's threshold is a probability in [0, 1], got {threshold}")
    if min_kept < 0:
        raise SegkdError(f"rdd's min_kept is a number of pixels, at least 0, got {min_kept}")
    if combine not in get_args(Combine):
        raise SegkdError(f"rdd cannot combine by {combine!r}, {nearest(combine, get_args(Combine))}")


def _check_choice(key: str, value: object, valid: Sequence[object]) -> None:
    if value not in valid:
        raise SegkdError(f"rdd has no {key} {value!r}, {nearest(value, valid)}")


class RelativeDifficulty(nn.Module):
    """Relative difficulty distillation: early on weigh easy pixels, later keep the hard ones worth learning.

        w(x) = exp(-KL(p^t || a^t)) at x up to progress switch
        w(x) = [f_s <= threshold] xor [f_t <= threshold] after it, f = softmax(z) of the true class
        task loss = 1 / N * sum over the pixels of w(x) CE(x)

    p^t and a^t are the teacher's main and auxiliary head (`teacher_full_difficulty`, `teacher_student_difficulty`): at
    first those pixels count on which they agree, later those that exactly one of the models finds hard. Not a loss: use
    it as ``Distiller(pixel_weighting=...)``, beside a `PixelKD` term. The released code differs in these places:

    |                         | ``variant="paper"`` | ``variant="released"``             |
    | ----------------------- | ------------------- | ---------------------------------- |
    | first stage             | KL(main, auxiliary) | KL(auxiliary, main)                |
    | resizing to the labels  | align_corners=False | align_corners=True                 |
    | N, first stage          | valid pixels        | all pixels, the ignored ones too   |
    | N, second stage         | valid pixels        | kept pixels alone                  |

    It also has ``min_kept``, 100000 there, and another switch, unpublished (``transition="linear"``). Where no pixel is
    kept the loss is 0, the released code's NaN; where a batch has fewer valid pixels than ``min_kept`` that stops. The
    paper's ablations on Cityscapes: xor 77.18 mIoU, or 75.32, and 70.01.

    The first stage needs a teacher with an auxiliary head (an FCN head on encoder stage 4). One that was trained with
    ``student.auxiliary: true`` has it; ``teacher.auxiliary: fit`` trains one on the frozen teacher first, for 300
    steps, and ``without_auxiliary: second_stage`` does without.

    For a teacher that is much surer than the student; look at the weight map in TensorBoard. Once both models find the
    same pixels hard, few are left, and the student learns from KD alone: on CamVid about a tenth of the pixels count
    after the switch (``train/pixel_weight`` in TensorBoard, after ``segkd train camvid_rdd``).

    Args:
        threshold: probability of the true class up to which a pixel is hard; 0.7 in the paper.
        switch: progress at which the second stage starts, in [0, 1]; 0.1 in the paper. 0 leaves the first stage out,
            1 the second.
        min_kept: raise each model's threshold, if need be, to the min_kept-th smallest probability of the batch (100000
            as released); 0 leaves it.
        combine: ``"xor"`` as in the paper, ``"or"`` or ``"and"``.
        variant: ``"paper"`` or ``"released"``.
        transition: ``"hard"`` switches at ``switch``; ``"linear"`` blends from the first stage's weights at progress 0
            to the second's at progress 1 (in the released code, unpublished) and does not read ``switch``.
        normalize: what the weighted sum is divided by, in both stages: ``"kept"`` pixels (weight above 0), ``"valid"``
            pixels, ``"all"`` pixels. None takes the variant's.
        without_auxiliary: for a teacher without auxiliary head: ``"error"``, or ``"second_stage"`` to use that stage
            alone.
        ignore_index: label to leave out.
        teacher: name of the teacher that it reads, where there are several.

    Raises:
        SegkdError: a value is out of range or does not exist.

    Reference: Liang et al., "Relative Difficulty Distillation for Semantic Segmentation", arXiv 2407.03719.

    Config:
        teacher: {auxiliary: fit}
        distill:
          terms:
            kd: {loss: pixel_kd, weight: 1.0}
          pixel_weighting: {rdd: {threshold: 0.7, switch: 0.1, combine: xor, variant: paper}}
    """

    name = "rdd"
    title = "Relative difficulty distillation"
    paper = "arXiv 2407.03719"
    published = "Cityscapes, DeepLabV3, R101 teaches R18: 74.21 to 77.18 mIoU, with pixel KD"
    reads = "logits"
    takes = "logits and the teacher's auxiliary ones, and labels"

    NO_AUXILIARY = (
        "rdd's first stage needs a teacher with an auxiliary head and this one has none: train one "
        "(teacher.auxiliary: fit), or use the second stage alone (without_auxiliary='second_stage')"
    )

    def __init__(
        self,
        threshold: float = 0.7,
        switch: float = 0.1,
        min_kept: int = 0,
        combine: Combine = "xor",
        variant: Variant = "paper",
        transition: Literal["hard", "linear"] = "hard",
        normalize: Normalize | None = None,
        without_auxiliary: Literal["error", "second_stage"] = "error",
        ignore_index: int = 255,
        teacher: str = "",
    ) -> None:
        super().__init__()
        _check(threshold, min_kept, combine)
        if not 0 <= switch <= 1:
            raise SegkdError(f"rdd's switch is a progress in [0, 1], got {switch}")
        _check_choice("variant", variant, get_args(Variant))
        _check_choice("transition", transition, ("hard", "linear"))
        _check_choice("normalize", normalize, (None, *get_args(Normalize)))
        _check_choice("without_auxiliary", without_auxiliary, ("error", "second_stage"))
        self.threshold, self.switch, self.min_kept, self.combine = threshold, switch, min_kept, combine
        self.variant, self.transition, self.normalize = variant, transition, normalize
        self.without_auxiliary, self.ignore_index, self.teacher = without_auxiliary, ignore_index, teacher

    @property
    def needs_auxiliary(self) -> bool:
        """Whether a teacher without auxiliary head is an error."""
        uses_first = self.transition == "linear" or self.switch > 0
        return uses_first and self.without_auxiliary == "error"

    def forward(
        self, student: Tensor, teacher: Tensor, auxiliary: Tensor | None, target: Tensor, progress: float
    ) -> PixelWeights:
        """Return the weights of a batch, see `PixelWeighting`."""
        if auxiliary is None and self.needs_auxiliary:
            raise SegkdError(self.NO_AUXILIARY)
        if auxiliary is None:
            second_share = 1.0
        elif self.transition == "linear":
            second_share = min(max(progress, 0.0), 1.0)
        else:
            # Not float(progress >= switch): under torch.compile, progress is symbolic and that has no value.
            second_share = 1.0 if progress >= self.switch and self.switch < 1 else 0.0
        stages = []
        if auxiliary is not None and second_share < 1:
            stages.append((1 - second_share, self._first(teacher, auxiliary, target)))
        if second_share > 0:
            stages.append((second_share, self._second(student, teacher, target)))
        return PixelWeights(
            map=torch.stack([share * weights.map for share, weights in stages]).sum(0),
            scaled=torch.stack([share * weights.scaled for share, weights in stages]).sum(0),
        )

    def _first(self, teacher: Tensor, auxiliary: Tensor, target: Tensor) -> PixelWeights:
        size = (target.shape[1], target.shape[2])
        # The two heads may differ in size; the weights are then taken at the main head's.
        auxiliary = resize(auxiliary, (teacher.shape[2], teacher.shape[3]))
        weights = teacher_full_difficulty(teacher, auxiliary, self.variant, size)
        valid = valid_labels(target, teacher.shape[1], self.ignore_index)
        return self._scale(weights * valid, valid, "valid" if self.variant == "paper" else "all")

    def _second(self, student: Tensor, teacher: Tensor, target: Tensor) -> PixelWeights:
        size, aligned = (target.shape[1], target.shape[2]), self.variant == "released"
        with torch.no_grad():
            logits = resize(student, size, aligned), resize(teacher, size, aligned)
            kept = teacher_student_difficulty(
                *logits, target, self.threshold, self.min_kept, self.combine, self.ignore_index
            )
        valid = valid_labels(target, student.shape[1], self.ignore_index)
        return self._scale(kept.float(), valid, "valid" if self.variant == "paper" else "kept")

    def _scale(self, weights: Tensor, valid: Tensor, default: Normalize) -> PixelWeights:
        normalize = self.normalize or default
        if normalize == "all":
            return PixelWeights(weights, weights / max(weights.numel(), 1))
        return over_valid(weights, weights > 0 if normalize == "kept" else valid)

    def extra_repr(self) -> str:
        """Show the settings in ``print``."""
        return f"threshold={self.threshold}, switch={self.switch}, combine={self.combine!r}, variant={self.variant!r}"
