"""PGD: prediction-guided distillation of a head's towers (Yang et al., arXiv 2203.05469)."""

from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from segkd.detection.heads import Place, check_heads
from segkd.detection.methods.fgd import spatial_attention
from segkd.detection.output import DenseOutput
from segkd.detection.targets import Targets
from segkd.errors import SegkdError, nearest
from segkd.losses._common import check_maps, check_temperature, full_precision, share_of_all
from segkd.losses.base import Loss

Variant = Literal["paper", "released"]
FLOOR = 1 / 1200
"""Variance of noise that is uniform over a tenth of a pixel: on the diagonal, places on one line stay finite."""
RISE = 0.25
"""What the class branch's weight grows by from level to level."""


class Importance(NamedTuple):
    """Weights of positions of one image, (N,), level by level."""

    classes: Tensor
    """For the class branch, in [0, 1]; 0 where nothing is learnt."""
    boxes: Tensor
    """For the box branch."""
    background: Tensor
    """1 where the position lies in no box, else 0."""


def channel_shares(features: Tensor, temperature: float) -> Tensor:
    """Return C * softmax over channels of |F| / T at each position, (B, C, h, w)."""
    return features.shape[1] * (features.abs() / temperature).softmax(1)


def gaussian_of_best(
    quality: Tensor, places: Tensor, topk: int, noise: Tensor | None = None, floor: float = FLOOR
) -> Tensor:
    """Return (M, N): of each box a Gaussian fitted to its best positions, there, and 0 at all others.

    exp(-d' S^-1 d / 2) of the ``topk`` positions of highest quality, d from their mean, S their biased covariance.

    Args:
        quality: (M, N), of each position for each box.
        places: (N, 2), in pixels.
        topk: how many positions; all, where there are fewer.
        noise: (M, topk, 2), added to the places before mean and covariance are taken, best position first.
        floor: added to the diagonal of S.
    """
    with full_precision(quality, places.to(quality)) as (q, x):
        best = q.topk(min(topk, q.shape[1]), 1).indices
        at = x[best]
        fitted = at if noise is None else at + noise[:, : best.shape[1]]
        mean = fitted.mean(1, keepdim=True)
        centred = fitted - mean
        covariance = centred.transpose(1, 2) @ centred / best.shape[1]
        a, b, d = covariance[:, 0, 0] + floor, covariance[:, 0, 1], covariance[:, 1, 1] + floor
        determinant = a * d - b * b + 1e-10
        inverse = torch.stack([d, -b, -b, a], 1).view(-1, 2, 2) / determinant[:, None, None]
        offset = at - mean
        value = (-0.5 * torch.einsum("mki,mij,mkj->mk", offset, inverse, offset)).exp()
        return torch.zeros_like(q).scatter(1, best, value)


@torch.no_grad()
def importance(
    scores: Tensor,
    predicted: Tensor,
    places: Tensor,
    boxes: Tensor,
    labels: Tensor,
    class_exponent: float = 0.8,
    box_exponent: float = 0.6,
    topk: int = 30,
    noise: Tensor | None = None,
    floor: float = FLOOR,
) -> Importance:
    """Return where a teacher predicts the boxes of an image well, for both branches.

    The quality of a position for a box is probability^(1 - a) * IoU^a, of the box's class and of the box predicted
    there. See `gaussian_of_best`; 0 where the position does not lie strictly inside the box; of several boxes the
    maximum.

    Args:
        scores: (N, K), the teacher's class probabilities.
        predicted: (N, 4), its boxes, xyxy in pixels.
        places: (N, 2), the positions' centres.
        boxes: (M, 4), xyxy in pixels; M may be 0.
        labels: (M,), in 0..K-1.
        class_exponent: a for the class branch.
        box_exponent: a for the box branch.
        topk: see `gaussian_of_best`, as is what follows.
        noise: for both branches.
        floor: likewise.
    """
    if len(boxes) == 0:
        nothing = scores.new_zeros(len(scores))
        return Importance(nothing, nothing, nothing + 1)
    boxes, places = boxes.to(scores), places.to(scores)
    inside = torch.cat([places - boxes[:, None, :2], boxes[:, None, 2:] - places], -1).amin(-1) > 0
    probability, overlap = scores[:, labels].T, box_iou(boxes, predicted)
    found = []
    for a in (class_exponent, box_exponent):
        quality = probability.pow(1 - a) * overlap.pow(a)
        found.append((gaussian_of_best(quality, places, topk, noise, floor) * inside).amax(0))
    return Importance(found[0], found[1], (~inside.any(0)).to(scores.dtype))


class PGD(Loss):
    """Prediction-guided distillation: the towers' features where the teacher itself predicts the boxes well.

        A_S = h * w * softmax_hw(mean_c |F| / T), A_P = C * softmax_c(|F| / T) at each position, of each level
        class branch: w * sum of (alpha * m + beta * n) * A_S^t * A_P^t * (F_s - F_t)^2 / B
          + delta * (sum |A_P^s - A_P^t| / (B * h * w) + sum |A_S^s - A_S^t| / B), w = 1, 1.25, ... 2 for P3..P7
        box branch, the mean over the positions of the batch with m above 0, 0 without any:
          gamma * m * mean_c(A_P^t (F_s - F_t)^2) + delta * sum_c |A_P^s - A_P^t|

    Compared are both towers after their first block. m is the map of `importance`, n that of what lies in no box; in
    the class branch each is divided by its number of cells above 0 per image and level. Where the student's towers have
    other channels, a 1x1 convolution with bias of each branch, made by `prepare`, maps them. For heads of one family
    with one prior a cell (GFL, FCOS, ATSS).

    Released code: its masks act on every image of the batch, not on their own alone, so that the class branch's feature
    term is up to B times as large, and the weights were tuned so with 4 images a GPU: ``variant="released"`` does. Not
    repeated: it decodes GFL's boxes with other levels' strides, swaps x and y of FCOS in the inside test, and adds
    noise of a twentieth of a pixel to the places, whose variance is here on the covariance's diagonal. alpha is 0.04
    for GFL and FCOS, 0.08 for ATSS, with T = 0.4 and topk = 9. Published on COCO, 1x, also: FCOS from 38.2 to 42.5 AP.

    Args:
        alpha: weight of the important positions in the class branch.
        beta: of the background; None: alpha / 2.
        gamma: of the box branch; None: 1.6 * alpha.
        delta: of the attentions.
        temperature: T, above 0.
        topk: how many positions of a box count, at least 1.
        class_exponent: share of the IoU in a position's quality for the class branch, in [0, 1].
        box_exponent: likewise, for the box branch.
        variant: ``"paper"`` or ``"released"``.

    Shape:
        student, teacher: what `DetectionAdapter` reads as ``"head"``, with one prior a cell; target: the transformed
        targets. Returns a scalar.

    Raises:
        SegkdError: an option is out of its range, or it was not prepared for these channels.

    Reference: Yang, Ochal, Storkey, Crowley, "Prediction-Guided Distillation for Dense Object Detection",
    arXiv 2203.05469.

    Config:
        task: detection
        distill:
          terms:
            pgd: {loss: pgd, alpha: 0.04, temperature: 0.8, topk: 30, weight: 1.0}

    Example:
        >>> from segkd import Term
        >>> from segkd.detection.methods import PGD
        >>> Term(PGD(alpha=0.08, temperature=0.4, topk=9)).student
        'head'
    """

    name = "pgd"
    title = "Prediction-guided distillation"
    paper = "arXiv 2203.05469"
    reads = "head"
    takes = "the towers of detectors' heads, and boxes"
    default_weight = 1.0
    normalization = "class branch: sums / (B * cells); box branch: means over positions; times alpha to delta"
    trains = "1x1 convolutions where the channels differ"
    published = "COCO, GFL, R101 teaches R50: 40.2 to 43.8 AP"
    places: ClassVar[set[Place]] = {("class", 1), ("box", 1)}

    alpha: float = 0.04
    beta: float | None = None
    gamma: float | None = None
    delta: float = 0.0008
    temperature: float = 0.8
    topk: int = 30
    class_exponent: float = 0.8
    box_exponent: float = 0.6
    variant: Variant = "paper"

    def check(self) -> None:
        """Look at the options."""
        check_temperature(self.temperature)
        if self.variant not in get_args(Variant):
            raise SegkdError(f"pgd has no variant {self.variant!r}, {nearest(self.variant, get_args(Variant))}")
        if self.topk < 1:
            raise SegkdError(f"pgd's topk must be at least 1, got {self.topk}")
        for name in ("class_exponent", "box_exponent"):
            if not 0 <= getattr(self, name) <= 1:
                raise SegkdError(f"pgd's {name} must lie in [0, 1], got {getattr(self, name)}")
        self.aligns = nn.ModuleDict()

    def check_heads(self, term: Any, student: Any, teacher: Any) -> None:
        """Raise `SegkdError` unless both heads predict alike, once in each cell."""
        check_heads("PGD", term, student, teacher)
        if student.anchors_per_cell != 1:
            raise SegkdError(f"PGD needs heads of 1 anchor per cell, these have {student.anchors_per_cell}")

    def prepare(self, student: DenseOutput, teacher: DenseOutput) -> None:
        """Make the convolutions where channels differ; those that are there stay."""
        channels = (student.head.channels, teacher.head.channels)
        if channels[0] != channels[1] and not self.aligns:
            device = student.predictions["cls_logits"].device
            self.aligns.update({branch: nn.Conv2d(*channels, 1, device=device) for branch, _ in sorted(self.places)})

    def forward(self, student: DenseOutput, teacher: DenseOutput, target: Targets) -> Tensor:
        """Return the loss, a scalar."""
        found = self.importances(student, teacher, target)
        m_class, m_box, background = (
            torch.stack(maps).split(student.level_sizes, 1) for maps in zip(*found, strict=True)
        )
        total = []
        for level, shape in enumerate(x.shape for x in student.maps.values()):
            m, n, of_box = (x[level].view(shape[0], 1, *shape[2:]) for x in (m_class, background, m_box))
            s = {branch: self.aligned(branch, student.towers[branch, 1][level]) for branch, _ in self.places}
            t = {branch: teacher.towers[branch, 1][level] for branch, _ in self.places}
            total.append(self.class_branch(s["class"], t["class"], m, n, 1 + RISE * level))
            total.append(self.box_branch(s["box"], t["box"], of_box))
        return torch.stack(total).sum()

    @torch.no_grad()
    def importances(self, student: DenseOutput, teacher: DenseOutput, target: Targets) -> list[Importance]:
        """Return of each image where its positions count."""
        # What lies in a batch's padding is nobody's best, be it by probability or by IoU.
        counts = student.in_image[..., None]
        predicted = teacher.head.decode(teacher.predictions, teacher.anchors) * counts
        with full_precision(teacher.head.foreground(teacher.predictions)) as (logits,):
            scores = logits.sigmoid() * counts
        return [
            importance(
                of_image,
                boxes,
                (anchors[:, :2] + anchors[:, 2:]) / 2,
                labelled["boxes"],
                labelled["labels"] - 1,
                self.class_exponent,
                self.box_exponent,
                self.topk,
            )
            for of_image, boxes, anchors, labelled in zip(scores, predicted, teacher.anchors, target, strict=True)
        ]

    def aligned(self, branch: str, features: Tensor) -> Tensor:
        """Return the student's features in the teacher's channels."""
        with full_precision(features) as (x,):
            return self.aligns[branch](x) if branch in self.aligns else x

    def class_branch(
        self, student: Tensor, teacher: Tensor, important: Tensor, background: Tensor, level_weight: float = 1.0
    ) -> Tensor:
        """Return the class branch's loss of a level: features (B, C, h, w), maps (B, 1, h, w) before division."""
        check_maps(self.name, student, teacher)
        beta = self.alpha / 2 if self.beta is None else self.beta
        with full_precision(student, teacher.detach()) as (s, t):
            batch, positions = s.shape[0], s.shape[2:].numel()
            mask = self.alpha * _per_cell(important.to(s)) + beta * _per_cell(background.to(s))
            if self.variant == "released":
                mask = mask.sum(0, keepdim=True)
            spatial, shares = spatial_attention(t, self.temperature), channel_shares(t, self.temperature)
            error = spatial * (shares * (s - t).square()).sum(1)
            feature = (mask[:, 0] * error).sum() / batch
            attention = (channel_shares(s, self.temperature) - shares).abs().sum() / (batch * positions)
            attention = attention + (spatial_attention(s, self.temperature) - spatial).abs().sum() / batch
            return level_weight * feature + self.delta * attention

    def box_branch(self, student: Tensor, teacher: Tensor, important: Tensor) -> Tensor:
        """Return the box branch's loss of a level, likewise."""
        check_maps(self.name, student, teacher)
        gamma = 1.6 * self.alpha if self.gamma is None else self.gamma
        with full_precision(student, teacher.detach()) as (s, t):
            # In a distributed run each position counts alike.
            counts = important[:, 0] > 0
            number = counts.sum().to(s.dtype)
            per_position = share_of_all(number) / number.clamp(min=1)
            # Rows of the positions that count, (n, C).
            s, t = (x.permute(0, 2, 3, 1)[counts] for x in (s, t))
            shares = channel_shares(t, self.temperature)
            error = (shares * (s - t).square()).mean(1)
            feature = (important[:, 0][counts].to(s) * error).sum()
            attention = (channel_shares(s, self.temperature) - shares).abs().sum()
            return per_position * (gamma * feature + self.delta * attention)


def _per_cell(mask: Tensor) -> Tensor:
    """Divide each image's map (B, 1, h, w) by its number of cells above 0."""
    return mask / (mask > 0).sum((1, 2, 3), keepdim=True).clamp(min=1)
