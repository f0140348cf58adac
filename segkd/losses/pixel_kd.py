"""Pixel-wise knowledge distillation: the Hinton loss at each pixel."""

from torch import Tensor

from segkd.losses._common import check_pair, check_temperature, pixel_mean, valid_pixels
from segkd.losses._kl import KL
from segkd.losses.base import Loss


def pixel_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) over the classes at each pixel.

    Args:
        student: (B, C, h, w) logits.
        teacher: the same shape.
        temperature: divides both, above 0.

    Returns:
        (B, h, w) in nats, not multiplied by the squared temperature.
    """
    check_temperature(temperature)
    check_pair("pixel_kl", student, teacher)
    kl: Tensor = KL.apply(student, teacher, temperature, None)
    return kl


class PixelKD(Loss):
    """Pixel-wise KD: T^2 * mean over B*h*w of KL(softmax_c(z_t / T) || softmax_c(z_s / T)).

    The code released with AICSD averages over B*C*h*w and leaves T^2 out: its weight 10 is 10 / C here.

    Args:
        temperature: divides the logits, above 0.
        ignore_index: leave pixels with this label out, when labels are given; None (the field's habit) keeps them. In a
            distributed run their number is averaged over processes, so that each pixel counts alike.

    Shape:
        student, teacher: (B, C, h, w) logits; target: (B, H, W) labels, read only with ``ignore_index``.
        Returns a scalar.

    Raises:
        SegkdError: shapes differ or the temperature is not above 0.

    Reference: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, per pixel.

    Example:
        >>> import torch
        >>> from segkd.losses import PixelKD
        >>> PixelKD(temperature=2.0)(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)).item()
        0.0
    """

    name = "pixel_kd"
    title = "Pixel-wise KD"
    paper = "arXiv 1503.02531"
    default_weight = 1.0
    normalization = "T^2 * mean of KL over the B * h * w pixels"

    temperature: float = 1.0
    ignore_index: int | None = None

    def check(self) -> None:
        """Look at the temperature."""
        check_temperature(self.temperature)

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        check_pair(self.name, student, teacher)
        kl = pixel_kl(student, teacher, self.temperature)
        return pixel_mean(kl, valid_pixels(target, self.ignore_index, student)) * self.temperature**2
