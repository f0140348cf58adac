"""GDKD: generalized decoupled knowledge distillation at each pixel (Zheng and Cheng, arXiv 2512.04625)."""

import torch
from torch import Tensor

from segkd.errors import SegkdError
from segkd.losses._common import check_pair, check_temperature, pixel_mean, valid_pixels
from segkd.losses._grouped_kl import grouped_kl
from segkd.losses.base import Loss


class GDKD(Loss):
    """Generalised decoupled KD: the teacher's k likeliest classes of a pixel and the others, apart and weighed anew.

        L = T^2 * mean over the pixels of  w0 * KL((p_U, p_V) of the teacher || those of the student)
                                         + w1 * KL among the classes of U + w2 * KL among those of V

    U are the k classes, V the others, p_U and p_V their masses, all of softmax(z / T). Plain KD weighs the last two by
    the teacher's masses: what it knows of unlikely classes hardly counts there. With k = 1, and the label for the
    teacher's class, it is `DKD`; no label is needed here. It is computed from logarithms: masses may underflow. The
    released code for segmentation stops where 1 to 1000 pixels are ignored.

    Args:
        k: how many classes, from 1 to C.
        w0: weight of the masses.
        w1: weight of the k likeliest.
        w2: weight of the others.
        temperature: divides the logits, above 0.
        ignore_index: leave pixels with this label out, when labels are given; None keeps them. In a distributed run
            their number is averaged over processes.

    Shape:
        student, teacher: (B, C, h, w) logits; target: (B, H, W) labels, read only with ``ignore_index``.
        Returns a scalar.

    Raises:
        SegkdError: shapes differ, k exceeds the classes or an option is out of range.

    Reference: Zheng, Cheng, "Rethinking Decoupled Knowledge Distillation: A Predictive Distribution Perspective",
    arXiv 2512.04625.

    Config:
        distill:
          terms:
            gdkd: {loss: gdkd, k: 3, w0: 1.0, w1: 1.0, w2: 2.0, temperature: 1.0, weight: 1.0}

    Example:
        >>> import torch
        >>> from segkd.losses import GDKD
        >>> x = torch.randn(2, 5, 4, 4)
        >>> GDKD()(x, x).item()
        0.0
    """

    name = "gdkd"
    title = "Generalized decoupled KD"
    paper = "arXiv 2512.04625"
    default_weight = 1.0
    normalization = "T^2 * mean over the B * h * w pixels"

    k: int = 3
    w0: float = 1.0
    w1: float = 1.0
    w2: float = 2.0
    temperature: float = 1.0
    ignore_index: int | None = None

    def check(self) -> None:
        """Look at k and the temperature."""
        check_temperature(self.temperature)
        if self.k < 1:
            raise SegkdError(f"gdkd needs a k of at least 1, got {self.k}")

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        teacher = teacher.detach()
        if self.k > teacher.shape[1]:
            raise SegkdError(f"gdkd with k={self.k} needs as many classes, got logits {tuple(teacher.shape)}")
        likeliest = torch.zeros_like(teacher, dtype=torch.bool).scatter(1, teacher.topk(self.k, 1).indices, True)
        of_masses, among, of_others = grouped_kl(student, teacher, likeliest, self.temperature)
        total = self.w0 * of_masses + self.w1 * among + self.w2 * of_others
        return pixel_mean(total, valid_pixels(target, self.ignore_index, student)) * self.temperature**2
