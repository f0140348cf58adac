"""Grouped KD, for many classes (Zhao et al., arXiv 2304.04462), at each pixel."""

from typing import Literal, get_args

import torch
from torch import Tensor

from segkd.errors import SegkdError, nearest
from segkd.losses._common import check_pair, check_temperature, full_precision, labelled_pixels, pixel_mean
from segkd.losses._grouped_kl import grouped_kl
from segkd.losses.base import Loss

Model = Literal["student", "teacher"]


def group_size(logits: Tensor, valid: Tensor, rate: float, step: int = 1) -> Tensor:
    """Return how many classes hold a share of the mean probability: N of 1, 1 + step, 1 + 2 step, ..., or all C.

    Args:
        logits: (B, C, h, w).
        valid: (B, h, w) bool: the pixels whose softmax the mean is of.
        rate: the share, in (0, 1]; the mean probabilities, the largest first, add up to it.
        step: at least 1.

    Returns:
        An int64 scalar.
    """
    with full_precision(logits.detach()) as (z,):
        mean = (z.softmax(1) * valid[:, None]).sum((0, 2, 3)) / valid.sum().clamp(min=1)
        mass = mean.sort(descending=True).values.cumsum(0)[::step]
        return torch.where((mass < rate).all(), len(mean), 1 + (mass < rate).sum() * step)


class GroupedKD(Loss):
    """Grouped KD: the primary group of classes is distilled, and how much is outside it; what is outside is left alone.

        L = T^2 * mean over the labelled pixels of  alpha * KL(masses of group and rest, teacher's || student's)
                                                  + beta * KL in the group + secondary * KL in the rest

    All are of softmax(z / T). The group of a pixel is its label and the N - 1 other classes of the largest logits of
    ``group_by``; N is how many classes hold ``rate`` of the batch's mean probability at T = 1, see `group_size`. For
    many classes (ADE20K, COCO-Stuff), a tail of which a small student cannot fit: with 11 classes nearly all are in the
    group, and the loss is beta times pixel KD. The paper is of images, with thousands of classes (``step: 100``).

    N and the groups are the student's, as the authors' code has it. That takes logarithms of sums, which are infinite
    once these underflow; here all is computed from logarithms. It takes beta 8 with a group of fixed size and 4 with
    one by ``rate``, and lets the weight rise over the first 10 epochs (a term's ``schedule``).

    Args:
        rate: the share of the probability that makes the group, in (0, 1]; 1 groups all, and beta * KD remains.
        step: N grows by so many, at least 1; 100 for thousands of classes.
        alpha: weight of the masses.
        beta: weight of the group.
        secondary: weight of the rest.
        temperature: divides the logits, above 0.
        group_by: whose logits make the groups, ``"student"`` or ``"teacher"``.
        ignore_index: label to leave out, as are labels that name no class. In a distributed run the number of pixels is
            averaged over processes; N is each one's own.

    Shape:
        student, teacher: (B, C, h, w) logits; target: (B, H, W) labels, taken to the logits' size by nearest neighbour.
        Returns a scalar, 0 where no pixel has a label.

    Raises:
        SegkdError: shapes differ, there are no labels or an option is out of range.

    Reference: Zhao et al., "Grouped Knowledge Distillation for Deep Face Recognition", arXiv 2304.04462, per pixel.

    Config:
        distill:
          terms:
            grouped: {loss: grouped_kd, rate: 0.93, beta: 8.0, temperature: 4.0, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import GroupedKD
        >>> x, labels = torch.randn(1, 20, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> GroupedKD()(x, x, labels).item()
        0.0
    """

    name = "grouped_kd"
    title = "Grouped KD"
    paper = "arXiv 2304.04462"
    takes = "logits, and labels"
    default_weight = 1.0
    normalization = "T^2 * mean over the labelled pixels"

    rate: float = 0.93
    step: int = 1
    alpha: float = 1.0
    beta: float = 8.0
    secondary: float = 0.0
    temperature: float = 4.0
    group_by: Model = "student"
    ignore_index: int = 255

    def check(self) -> None:
        """Look at the options."""
        check_temperature(self.temperature)
        if not 0 < self.rate <= 1:
            raise SegkdError(f"grouped_kd has a rate above 0 and at most 1, got {self.rate}")
        if self.step < 1:
            raise SegkdError(f"grouped_kd has a step of at least 1, got {self.step}")
        if self.group_by not in get_args(Model):
            raise SegkdError(f"grouped_kd cannot group by {self.group_by!r}, {nearest(self.group_by, get_args(Model))}")

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        teacher = teacher.detach()
        labels, valid = labelled_pixels(self.name, target, self.ignore_index, student)
        grouping = student.detach() if self.group_by == "student" else teacher
        size = group_size(grouping, valid, self.rate, self.step)
        # The label comes first; the order of equal logits is the sort's.
        labelled = grouping.scatter(1, labels[:, None], torch.inf)
        order = labelled.argsort(1, descending=True)
        rank = torch.arange(student.shape[1], device=order.device).view(1, -1, 1, 1)
        group = torch.empty_like(order, dtype=torch.bool).scatter(1, order, (rank < size).expand_as(order))
        of_masses, primary, rest = grouped_kl(student, teacher, group, self.temperature)
        total = self.alpha * of_masses + self.beta * primary + self.secondary * rest
        return pixel_mean(total, valid) * self.temperature**2
