"""Pixel-wise knowledge distillation: the Hinton loss at each pixel."""

from torch import Tensor, nn
from torch.nn import functional as F

from segkd.losses._common import check_pair, check_temperature, full_precision, soften, valid_pixels


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
    with full_precision(student, teacher) as (s, t):
        log_s = F.log_softmax(soften(s, temperature), dim=1)
        log_t = F.log_softmax(soften(t, temperature), dim=1)
        # F.kl_div makes one more map-sized temporary forward and another one backward.
        return (log_t.exp() * (log_t - log_s)).sum(1)


def pixel_kd(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None = None,
    temperature: float = 1.0,
    ignore_index: int | None = None,
) -> Tensor:
    """Return T^2 times the mean of `pixel_kl` over the pixels, see `PixelKD`."""
    check_pair("pixel_kd", student, teacher)
    kl = pixel_kl(student, teacher, temperature)
    valid = valid_pixels(target, ignore_index, student)
    if valid is None:
        return kl.mean() * temperature**2
    return (kl * valid).sum() / valid.sum().clamp(min=1) * temperature**2


class PixelKD(nn.Module):
    """Pixel-wise KD: T^2 * mean over B*h*w of KL(softmax_c(z_t / T) || softmax_c(z_s / T)).

    The code released with AICSD averages over B*C*h*w and leaves T^2 out: its weight 10 is 10 / C here.

    Args:
        temperature: divides the logits, above 0.
        ignore_index: leave pixels with this label out, when labels are given; None (the field's habit) keeps them.

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

    def __init__(self, temperature: float = 1.0, ignore_index: int | None = None) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature, self.ignore_index = temperature, ignore_index

    def forward(self, student: Tensor, teacher: Tensor, target: Tensor | None = None) -> Tensor:
        """Return the loss, a scalar."""
        return pixel_kd(student, teacher, target, self.temperature, self.ignore_index)

    def extra_repr(self) -> str:
        """Show the settings in ``print``."""
        return f"temperature={self.temperature}, ignore_index={self.ignore_index}"
