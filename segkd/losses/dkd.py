"""DKD: decoupled knowledge distillation at each pixel (Zhao et al., arXiv 2203.08679)."""

import torch.nn.functional as F
from torch import Tensor

from segkd.losses._common import check_pair, check_temperature, full_precision, labelled_pixels, pixel_mean, soften
from segkd.losses._kl import KL
from segkd.losses.base import Loss
from segkd.losses.pixel_kd import standardized


class DKD(Loss):
    """Decoupled KD: how sure the teacher is of the label, and how it ranks the other classes, weighed apart.

        L = T^2 * mean over the pixels with a label y of alpha * TCKD + beta * NCKD
        TCKD = KL((p_y, 1 - p_y) of the teacher || that of the student), p = softmax(z / T)
        NCKD = KL(p_c / (1 - p_y) of the teacher || that of the student), over the classes c other than y

    Pixel KD is their sum with other weights: there NCKD counts by 1 - p_y of the teacher. Both are computed from
    logarithms: the released code takes the logarithm of a sum of probabilities, which is infinite, with a gradient of
    NaN, once these underflow (a gap between logits of some 100 T).

    Args:
        alpha: weight of TCKD.
        beta: weight of NCKD.
        temperature: divides the logits, above 0.
        standardize: on logits that have mean 0 and deviation 1 over the classes, see `segkd.losses.PixelKD`.
        ignore_index: label to leave out, as are labels that name no class. In a distributed run the number of pixels is
            averaged over processes.

    Shape:
        student, teacher: (B, C, h, w) logits, the teacher's taken without gradient; target: (B, H, W) labels, taken to
        the logits' size by nearest neighbour. Returns a scalar, 0 where no pixel has a label.

    Raises:
        SegkdError: shapes differ, there are no labels, or an option is out of range.

    Reference: Zhao et al., "Decoupled Knowledge Distillation", arXiv 2203.08679.

    Config:
        distill:
          terms:
            dkd: {loss: dkd, alpha: 1.0, beta: 8.0, temperature: 4.0, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import DKD
        >>> x, labels = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
        >>> DKD()(x, x, labels).item()
        0.0
    """

    name = "dkd"
    title = "Decoupled KD"
    paper = "arXiv 2203.08679"
    takes = "logits, and labels"
    default_weight = 1.0
    normalization = "T^2 * mean over the labelled pixels"

    alpha: float = 1.0
    beta: float = 8.0
    temperature: float = 4.0
    standardize: bool = False
    ignore_index: int = 255

    def check(self) -> None:
        """Look at the temperature."""
        check_temperature(self.temperature)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        labels, valid = labelled_pixels(self.name, target, self.ignore_index, student)
        labels = labels[:, None]
        with full_precision(student, teacher.detach()) as logits:
            z = [standardized(self.name, x) if self.standardize else x for x in logits]
            # -1e30 instead of infinity, which would be NaN where it stands on both sides.
            others = [x.scatter(1, labels, -1e30) for x in z]
            s, t = (_gap(x, o, labels, self.temperature) for x, o in zip(z, others, strict=True))
            tckd = t.sigmoid() * (F.logsigmoid(t) - F.logsigmoid(s))
            tckd = tckd + (-t).sigmoid() * (F.logsigmoid(-t) - F.logsigmoid(-s))
            nckd = KL.apply(*others, self.temperature, None)
            return pixel_mean(self.alpha * tckd + self.beta * nckd, valid) * self.temperature**2


def _gap(logits: Tensor, others: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Return (B, h, w): how far the label is above the others together, whose logsigmoid is its mass's logarithm."""
    own = logits.gather(1, labels)[:, 0]
    return soften(own, temperature) - soften(others, temperature).logsumexp(1)
